"""From images and boxes to a launch."""

import math
from typing import Any

import torch
from torch import Tensor

from soda_kernels.memory import check_memory
from soda_kernels.start import starting

MOST_TAPS = 17
"""Pixels that a result may need along a side, which is for images eight times as large as their views: the kernel reads
the square of them for each result. From where on two passes would be faster has not been measured."""

_BLOCK = 256
LARGEST = math.isqrt(65_535 * _BLOCK)
"""Side in pixels of the largest views: CUDA has at most 65535 blocks along a grid's second axis."""


def resize_views(images: Tensor, boxes: Tensor, first: Tensor, weights: Tensor, precision_bits: int) -> Tensor:
    """Cut a box out of each image, resize it to a square, mirror it if asked to.

    Args:
        images: (N, H, W, 3) uint8 RGB, where Triton runs (see `why_not_triton`).
        boxes: (N, 5) int64: top, left, height and width in pixels, inside the image; 1 to mirror left to right, else 0.
        first: (L + 1, S) int64, S <= LARGEST, of lengths up to L = max(H, W): the first of the pixels that count for
            each result.
        weights: (L + 1, S, K) int32, K <= MOST_TAPS: for how much they do; 0 beyond the last.
        precision_bits: weights are in units of 2**-precision_bits.

    All contiguous, on one device.

    Returns:
        (N, S, S, 3) uint8.

    Raises:
        KernelFailed: it cannot be compiled or started there.
    """
    from soda_kernels.resize_views.kernel import resize_boxes

    count, height, width, _ = images.shape
    size = first.shape[1]
    tables = (boxes, torch.int64), (first, torch.int64), (weights, torch.int32)
    check_memory(images.device, (images, torch.uint8), *tables)
    assert weights.shape[2] <= MOST_TAPS, f"at most {MOST_TAPS} pixels along a side count for a result"
    assert size <= LARGEST, "larger views have more blocks than a grid"
    assert boxes.shape == (count, 5), "a box for each image"
    views = torch.empty(count, size, size, 3, dtype=torch.uint8, device=images.device)
    if count:
        chosen = options(height, width, size, weights.shape[2], precision_bits)
        grid = (count, -(-size * size // _BLOCK))
        with starting(f"resize_boxes ({height}x{width} to {size}x{size} pixels)", images.device):
            resize_boxes[grid](views, images, boxes, first, weights, **chosen)
    return views


def options(height: int, width: int, size: int, taps: int, precision_bits: int) -> dict[str, Any]:
    """Constants of the kernel and options of its compiler."""
    constants = {"HEIGHT": height, "WIDTH": width, "SIZE": size, "TAPS": taps, "PRECISION_BITS": precision_bits}
    return {**constants, "BLOCK": _BLOCK, "num_warps": 4, "num_stages": 1}
