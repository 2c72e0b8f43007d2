"""A plan's operations as the numbers of `soda_fast.fused_views`, computed once for a batch on the host."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.operations import GEOMETRIC, NAMES, inverse_affine
from soda_fast.fused_views import FIELDS, Step

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


def step_table(operations: NDArray[np.int64], strengths: Floats, size: int) -> Ints:
    """(N, K) operations and strengths, none of them Blur, for views of this side -> (N, K, FIELDS)."""
    table = np.zeros((*operations.shape, FIELDS), np.int32)
    for number in np.unique(operations):
        name, chosen = NAMES[number], operations == number
        table[chosen, 0] = Step.WARP if name in GEOMETRIC else _STEPS[name]
        if name in GEOMETRIC:
            table[chosen, 1:] = fixed_point_maps(operations[chosen], strengths[chosen], size)
        elif name in _NUMBERS:
            table[chosen, 1] = _NUMBERS[name](strengths[chosen])
    return table


def fixed_point_maps(operations: NDArray[np.int64], strengths: Floats, size: int) -> NDArray[np.int64]:
    """(N, 6): the maps of N geometric operations in 16.16 fixed point."""
    pairs = zip(operations.tolist(), strengths.tolist(), strict=True)
    return np.array([_fixed_point(NAMES[name], strength, size) for name, strength in pairs])


@cache
def _fixed_point(name: str, strength: float, size: int) -> list[int]:
    a, b, c, d, e, f = inverse_affine(name, strength, size)
    # Offsets are taken at the centre of the first pixel.
    return [int(np.floor(v * 65536.0 + 0.5)) for v in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)]


def _factor(strengths: Floats) -> Ints:
    return (1.0 + strengths).astype(np.float32).view(np.int32)


def _kept_bits(strengths: Floats) -> Ints:
    return (256 - 2 ** (8 - strengths)).astype(np.int32)


_STEPS = {
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
_NUMBERS: dict[str, Callable[[Floats], Ints]] = {
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _factor),
    "Posterize": _kept_bits,
    "Solarize": lambda strengths: np.ceil(strengths).astype(np.int32),
    "Hue": lambda strengths: (strengths * 255).astype(np.int32),  # cut towards zero, as torchvision does
}
