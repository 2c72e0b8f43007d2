"""A step of operations on a CPU, carried out by compiled code image by image: the grey levels of `pixel_operations`."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.data.operations import GEOMETRIC, IDENTITY, NAMES
from soda_fast.data.step_table import step_table
from soda_fast.pixels import change

_IN_C = np.isin(
    NAMES,
    [
        *GEOMETRIC,
        *("Identity", "Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize"),
        *("AutoContrast", "Equalize", "Grayscale"),
    ],
)


def apply_compiled(images: Tensor, operations: NDArray[np.int64], strengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Carry out one operation for each image, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        operations, strengths: (N,), of a plan.

    Returns:
        (N,), the operations that are left to do: Identity where this was done. All, where there is no compiler.
    """
    left = ~_IN_C[operations]
    done = change(images, step_table(np.where(left, IDENTITY, operations), strengths, images.shape[1]))
    return np.where(left, operations, IDENTITY) if done else operations
