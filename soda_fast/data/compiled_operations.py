"""A step of operations on a CPU, carried out by compiled code image by image: the grey levels of `pixel_operations`."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.data.operations import GEOMETRIC, IDENTITY, NAMES, fixed_point_affine
from soda_fast.pixels import NUMBERS, change, places

_CHANGE = {name: name.lower() for name in NAMES} | dict.fromkeys(GEOMETRIC, "warp") | {NAMES[IDENTITY]: "nothing"}
_LEFT_TO_TENSORS = ("Hue", "Blur")
_CHANGE |= dict.fromkeys(_LEFT_TO_TENSORS, "nothing")
_CHANGES = places([_CHANGE[name] for name in NAMES])
_GEOMETRIC, _BLENDS, _LEFT = (
    np.isin(NAMES, list(names))
    for names in (GEOMETRIC, ("Brightness", "Color", "Contrast", "Sharpness"), _LEFT_TO_TENSORS)
)
_POSTERIZE, _SOLARIZE = NAMES.index("Posterize"), NAMES.index("Solarize")


def apply_compiled(images: Tensor, operations: NDArray[np.int64], strengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Carry out one operation for each image, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        operations, strengths: (N,), of a plan.

    Returns:
        (N,), the operations that are left to do: Identity where this was done. All, where there is no compiler.
    """
    if not change(images, _CHANGES[operations], _numbers(operations, strengths, images.shape[1])):
        return operations
    return np.where(_LEFT[operations], operations, IDENTITY)


def _numbers(operations: NDArray[np.int64], strengths: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(N, 6), as `change` has them."""
    numbers = np.zeros((len(operations), NUMBERS))
    # float32, as Pillow has the factor.
    numbers[:, 0] = np.where(_BLENDS[operations], (1.0 + strengths).astype(np.float32), 0.0)
    for row in np.flatnonzero(_GEOMETRIC[operations]):
        numbers[row] = fixed_point_affine(NAMES[operations[row]], float(strengths[row]), size)
    masked, inverted = operations == _POSTERIZE, operations == _SOLARIZE
    numbers[masked, 0] = 256 - 2 ** (8 - strengths[masked])
    numbers[inverted, 0] = np.ceil(strengths[inverted])
    return numbers
