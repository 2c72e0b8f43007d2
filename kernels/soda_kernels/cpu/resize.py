"""Boxes of images, resized and mirrored as Pillow does it."""

import torch
from torch import Tensor

from soda_kernels.cpu.library import library
from soda_kernels.memory import check_memory


def resize_boxes(views: Tensor, images: Tensor, boxes: Tensor, first: Tensor, weights: Tensor) -> bool:
    """Cut out boxes, resize them to squares, mirror them. May be called from several threads for different images.

    Each pixel of a row of the result is a sum of K pixels from `first` on, times their weights, rounded and cut to a
    byte; then, from these rows, each of a column. All tensors are contiguous and on the CPU.

    Args:
        views: (N, S, S, 3) uint8; overwritten.
        images: (N, H, W, 3) uint8.
        boxes: (N, 5) int64: top, left, height, width of a box inside of its image; 1 where it is mirrored, else 0.
        first: (L + 1, S) int64, for boxes of each length up to L, H and W at least.
        weights: (L + 1, S, K) int32, in units of 2**-22; 0 for pixels that lie beyond the box.

    Returns:
        False, and nothing is done, where there is no C compiler (see `library`).
    """
    functions = library()
    if functions is None:
        return False
    tables = (boxes, torch.int64), (first, torch.int64), (weights, torch.int32)
    check_memory(torch.device("cpu"), (views, torch.uint8), (images, torch.uint8), *tables)
    count, height, width, _ = images.shape
    longest, size, taps = weights.shape
    assert views.shape == (count, size, size, 3), "square views, as large as the weights say"
    assert longest > max(height, width), "weights for every length"
    corners, sides = boxes[:, :2], boxes[:, 2:4]
    beyond = corners + sides > torch.tensor((height, width), device="cpu")
    assert not bool(((corners < 0) | (sides < 0) | beyond).any()), "boxes lie inside of their images"
    spare = torch.empty(3 * height * (width + 2 * size), dtype=torch.uint8, device="cpu")
    addresses = (tensor.data_ptr() for tensor in (views, spare, images, boxes, first, weights))
    functions.resize_boxes(*addresses, count, height, width, size, taps)
    return True
