"""A step of operations on a CPU, carried out by compiled code image by image: the grey levels of `pixel_operations`."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.data.operations import IDENTITY, NAMES
from soda_fast.data.step_table import HAVE_STEPS, step_table
from soda_fast.pixels import change

# Also the one step that Triton does and C does not.
_LEFT_TO_TENSORS = ~HAVE_STEPS | np.isin(NAMES, "Hue")


def apply_compiled(images: Tensor, operations: NDArray[np.int64], strengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Carry out one operation for each image, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        operations, strengths: (N,), of a plan.

    Returns:
        (N,), the operations that are left to do: Identity where this was done. All, where there is no compiler.
    """
    left = _LEFT_TO_TENSORS[operations]
    done = change(images, step_table(np.where(left, IDENTITY, operations), strengths, images.shape[1]))
    return np.where(left, operations, IDENTITY) if done else operations
