"""The levels of images on a CPU, resized, changed and turned into numbers in C where there is a compiler."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_kernels import change_images, fill_planes, resize_boxes
from soda_kernels.cpu.library import library


def in_c() -> bool:
    """Whether C does what is here. The first call compiles it."""
    return library() is not None


def change(images: Tensor, steps: NDArray[np.int32]) -> bool:
    """One step for each image, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        steps: (N, FIELDS), contiguous: `soda_fast.fused_views.Step` but HUE, and its numbers.

    Returns:
        False, and nothing is done, where there is no compiler.
    """
    return change_images(images, torch.from_numpy(steps))


def resize(images: Tensor, boxes: Tensor, first: Tensor, weights: Tensor) -> Tensor | None:
    """Boxes cut out, resized to squares, mirrored, as `soda_kernels.resize_boxes` says.

    Args:
        images: (N, H, W, 3) uint8, contiguous, on the CPU.
        boxes: (N, 5) int64: top, left, height, width, mirrored.
        first: (L + 1, S) int64.
        weights: (L + 1, S, K) int32.

    Returns:
        (N, S, S, 3) uint8; None where there is no compiler.
    """
    size = first.shape[1]
    views = torch.empty(len(images), size, size, 3, dtype=torch.uint8, device="cpu")
    return views if resize_boxes(views, images, boxes, first, weights) else None


def look_up(planes: Tensor, pixels: Tensor, table: Tensor) -> None:
    """planes[n, c, y, x] = table[c, pixels[n, y, x, c]]; by PyTorch where there is no compiler.

    Args:
        planes: (N, 3, H, W) float32, contiguous; overwritten.
        pixels: (N, H, W, 3) uint8, contiguous.
        table: (3, 256) float32, contiguous.
    """
    if not fill_planes(planes, pixels, table):
        for channel, values in enumerate(table):
            planes[:, channel] = values[pixels[..., channel].long()]
