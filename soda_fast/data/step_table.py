"""A plan's operations as the numbers that Triton on a GPU (`soda_fast.fused_views`) and C on a CPU (`soda_fast.pixels`)
read."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.operations import GEOMETRIC, NAMES, fixed_point_affine
from soda_fast.fused_views import FIELDS, Step

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


def step_table(operations: NDArray[np.int64], strengths: Floats, size: int) -> Ints:
    """Operations that HAVE_STEPS and strengths, both (...), for views of this side -> (..., FIELDS)."""
    table = np.zeros((*operations.shape, FIELDS), np.int32)
    for number in np.unique(operations):
        name, chosen = NAMES[number], operations == number
        table[chosen, 0] = _STEPS[name]
        if name in GEOMETRIC:
            maps = [fixed_point_affine(name, strength, size) for strength in strengths[chosen].tolist()]
            table[chosen, 1:] = np.array(maps, np.int32)  # which raises where one does not fit
        elif name in _NUMBERS:
            table[chosen, 1] = _NUMBERS[name](strengths[chosen])
    return table


def _factor(strengths: Floats) -> Ints:
    return (1.0 + strengths).astype(np.float32).view(np.int32)


def _kept_bits(strengths: Floats) -> Ints:
    return (256 - 2 ** (8 - strengths)).astype(np.int32)


_STEPS = dict.fromkeys(GEOMETRIC, Step.WARP) | {
    "Identity": Step.IDENTITY,
    "Brightness": Step.BRIGHTNESS,
    "Color": Step.COLOR,
    "Contrast": Step.CONTRAST,
    "Sharpness": Step.SHARPNESS,
    "Posterize": Step.POSTERIZE,
    "Solarize": Step.SOLARIZE,
    "AutoContrast": Step.AUTO_CONTRAST,
    "Equalize": Step.EQUALIZE,
    "Hue": Step.HUE,
    "Grayscale": Step.GRAYSCALE,
}
HAVE_STEPS = np.array([name in _STEPS for name in NAMES])
"""By place in NAMES, which operations a `Step` does."""

_NUMBERS: dict[str, Callable[[Floats], Ints]] = {
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _factor),
    "Posterize": _kept_bits,
    "Solarize": lambda strengths: np.ceil(strengths).astype(np.int32),
    "Hue": lambda strengths: (strengths * 255).astype(np.int32),  # cut towards zero, as torchvision does
}
