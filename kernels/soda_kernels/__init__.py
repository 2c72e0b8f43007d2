"""Fused kernels of soda_fast. Knows torch and triton alone."""

from soda_kernels.group_norm_modulate import group_norm_modulate, join_norm_modulate, why_not_triton

__all__ = ["group_norm_modulate", "join_norm_modulate", "why_not_triton"]
