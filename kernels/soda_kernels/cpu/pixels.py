"""Changes of the levels of images, as Pillow makes them."""

import torch
from torch import Tensor

from soda_kernels.cpu.library import library
from soda_kernels.memory import check_memory
from soda_kernels.view_operations.steps import FIELDS


def change_images(images: Tensor, steps: Tensor) -> bool:
    """One step for each image, in place. May be called from several threads for different images.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        steps: (N, FIELDS) int32, contiguous: a `Step` and its numbers; HUE does nothing here.

    Returns:
        False, and nothing is done, where there is no C compiler (see `library`).
    """
    functions = library()
    if functions is None:
        return False
    check_memory(torch.device("cpu"), (images, torch.uint8), (steps, torch.int32))
    count, height, width, channels = images.shape
    assert (height, channels) == (width, 3), f"square RGB images, not {tuple(images.shape)}"
    assert steps.shape == (count, FIELDS), "a step for each image"
    spare = torch.empty(height * width * 3, dtype=torch.uint8, device="cpu")
    functions.change_images(*(tensor.data_ptr() for tensor in (images, spare, steps)), count, height)
    return True
