"""From views and steps to a launch."""

from typing import Any

import torch
from torch import Tensor

from soda_kernels.memory import check_memory
from soda_kernels.start import starting
from soda_kernels.view_operations.steps import FIELDS

LARGEST = 64
"""Side in pixels of the largest views: beyond it a view no longer fits into a program's registers."""


def change_views(views: Tensor, steps: Tensor) -> None:
    """Do to each view its steps, one after the other, in place.

    Args:
        views: (N, S, S, 3) uint8 RGB, contiguous, S <= LARGEST, where Triton runs (see `why_not_triton`).
        steps: (N, K, FIELDS) int32: a `Step` and its numbers.

    Raises:
        KernelFailed: it cannot be compiled or started there.
    """
    from soda_kernels.view_operations.kernel import change_view

    count, size = views.shape[:2]
    assert size <= LARGEST, "larger views do not fit into a program"
    shapes = (size, size, 3), (count, FIELDS)
    assert (views.shape[1:], steps.shape[::2]) == shapes, "square RGB views, and the steps of each"
    check_memory(views.device, (views, torch.uint8), (steps, torch.int32))
    if count and steps.shape[1]:
        with starting(f"change_view ({size}x{size} pixels)", views.device):
            change_view[(count,)](views, steps, steps.shape[1], **options(size))


def options(size: int) -> dict[str, Any]:
    """Constants of the kernel and options of its compiler for views of this side."""
    pixels = max(128, 1 << (size * size - 1).bit_length())  # at least four for each thread
    warps = min(16, max(1, pixels // 128))
    return {"SIZE": size, "PIXELS": pixels, "num_warps": warps, "num_stages": 1, "enable_fp_fusion": False}
