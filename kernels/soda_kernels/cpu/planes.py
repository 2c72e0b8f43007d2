"""From pixels to planes of numbers."""

import torch
from torch import Tensor

from soda_kernels.cpu.library import library
from soda_kernels.memory import check_memory


def fill_planes(planes: Tensor, pixels: Tensor, table: Tensor) -> bool:
    """Look the levels of each channel up: planes[n, c, y, x] = table[c, pixels[n, y, x, c]].

    Args:
        planes: (N, 3, H, W) float32, contiguous, on the CPU; overwritten.
        pixels: (N, H, W, 3) uint8, contiguous.
        table: (3, 256) float32, contiguous.

    Returns:
        False, and nothing is done, where there is no C compiler (see `library`).
    """
    functions = library()
    if functions is None:
        return False
    check_memory(torch.device("cpu"), (planes, torch.float32), (pixels, torch.uint8), (table, torch.float32))
    count, _, height, width = planes.shape
    assert pixels.shape == (count, height, width, 3), "three levels for each place in the planes"
    assert table.shape == (3, 256), "a number for each level of each channel"
    functions.fill_planes(*(tensor.data_ptr() for tensor in (planes, pixels, table)), count, height * width)
    return True
