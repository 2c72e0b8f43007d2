"""Changes of the levels of images, as Pillow makes them."""

import torch
from torch import Tensor

from soda_kernels.cpu.library import library
from soda_kernels.memory import check_memory

CHANGES = (
    "nothing",
    "warp",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "grayscale",
)
"""What `change_images` can do, with its numbers.

warp: a, b, c, d, e, f in 16.16 fixed point, integers; pixel (x, y) of the result shows pixel
    (a x + b y + c, d x + e y + f), black outside.
brightness, color, contrast, sharpness: the factor, a float32.
posterize: the mask of the bits kept, 0..255.
solarize: the first level inverted, 0..256.
Others: none.
"""

NUMBERS = 6


def change_images(images: Tensor, changes: Tensor, numbers: Tensor) -> bool:
    """One change for each image, in place. May be called from several threads for different images.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        changes: (N,) int32, contiguous: places in CHANGES.
        numbers: (N, 6) float64, contiguous; zeros where a change has fewer.

    Returns:
        False, and nothing is done, where there is no C compiler (see `library`).
    """
    functions = library()
    if functions is None:
        return False
    check_memory(torch.device("cpu"), (images, torch.uint8), (changes, torch.int32), (numbers, torch.float64))
    count, height, width, channels = images.shape
    assert (height, channels) == (width, 3), f"square RGB images, not {tuple(images.shape)}"
    assert (changes.shape, numbers.shape) == ((count,), (count, NUMBERS)), "a change for each image"
    spare = torch.empty(height * width * 3, dtype=torch.uint8, device="cpu")
    functions.change_images(*(tensor.data_ptr() for tensor in (images, spare, changes, numbers)), count, height)
    return True
