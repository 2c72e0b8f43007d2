"""Fused kernels of soda_fast. Knows torch and triton alone."""

from soda_kernels.availability import why_not_triton
from soda_kernels.counter_bits import counter_bits
from soda_kernels.cpu import change_images, counter_normal, fill_planes, resize_boxes
from soda_kernels.group_norm_modulate import group_norm_modulate, join_norm_modulate
from soda_kernels.resize_views import resize_views
from soda_kernels.start import KernelFailed
from soda_kernels.view_operations import change_views

__all__ = [
    "KernelFailed",
    "change_images",
    "change_views",
    "counter_bits",
    "counter_normal",
    "fill_planes",
    "group_norm_modulate",
    "join_norm_modulate",
    "resize_boxes",
    "resize_views",
    "why_not_triton",
]
