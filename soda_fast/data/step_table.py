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
    assert HAVE_STEPS[operations].all(), "an operation without a step is done by PyTorch"
    table = np.zeros((*operations.shape, FIELDS), np.int32)
    table[..., 0] = _STEP_OF[operations]
    warped = _GEOMETRIC[operations]
    pairs = zip(operations[warped].tolist(), strengths[warped].tolist(), strict=True)
    maps = [fixed_point_affine(NAMES[number], strength, size) for number, strength in pairs]
    if maps:
        table[warped, 1:] = np.array(maps, np.int32)  # which raises where one does not fit
    for number_of, operation in _NUMBERS:
        chosen = operation[operations]
        if chosen.any():
            table[chosen, 1] = number_of(strengths[chosen])
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

_STEP_OF = np.array([_STEPS.get(name, -1) for name in NAMES], np.int32)


def _are(*names: str) -> NDArray[np.bool_]:
    """By place in NAMES."""
    return np.isin(NAMES, names)


_GEOMETRIC = _are(*GEOMETRIC)
_NUMBERS: list[tuple[Callable[[Floats], Ints], NDArray[np.bool_]]] = [
    (_factor, _are("Brightness", "Color", "Contrast", "Sharpness")),
    (_kept_bits, _are("Posterize")),
    (lambda strengths: np.ceil(strengths).astype(np.int32), _are("Solarize")),
    (lambda strengths: (strengths * 255).astype(np.int32), _are("Hue")),  # cut towards zero, as torchvision does
]
"""How a strength becomes the one number of a step, and of which operations."""
