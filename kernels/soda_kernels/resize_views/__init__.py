"""Boxes cut out of a batch of images, resized to squares and mirrored, in one launch."""

from soda_kernels.resize_views.launch import LARGEST, MOST_TAPS, resize_views

__all__ = ["LARGEST", "MOST_TAPS", "resize_views"]
