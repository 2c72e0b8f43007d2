"""Normalise, modulate, activate, drop: one memory-bound operation."""

from soda_kernels.group_norm_modulate.availability import why_not_triton
from soda_kernels.group_norm_modulate.operator import group_norm_modulate, join_norm_modulate

__all__ = ["group_norm_modulate", "join_norm_modulate", "why_not_triton"]
