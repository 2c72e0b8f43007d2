"""The levels of images on a CPU, resized and changed in C where there is a compiler."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_kernels import CHANGES, change_images, resize_boxes
from soda_kernels.cpu.library import library

NUMBERS = 6  # most numbers of a change


def in_c() -> bool:
    """Whether C does what is here. The first call compiles it."""
    return library() is not None


def places(names: Sequence[str]) -> NDArray[np.int32]:
    """Where changes stand in soda_kernels' list, which says what their numbers are."""
    return np.array([CHANGES.index(name) for name in names], np.int32)


def change(images: Tensor, changes: NDArray[np.int32], numbers: NDArray[np.float64]) -> bool:
    """One change for each image, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        changes: (N,) of `places`.
        numbers: (N, 6), zeros where a change has fewer.

    Returns:
        False, and nothing is done, where there is no compiler.
    """
    return change_images(images, torch.from_numpy(changes), torch.from_numpy(numbers))


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
