"""Normalise, modulate, activate, drop: one memory-bound operation."""

from soda_kernels.group_norm_modulate.operator import group_norm_modulate, join_norm_modulate

__all__ = ["group_norm_modulate", "join_norm_modulate"]
