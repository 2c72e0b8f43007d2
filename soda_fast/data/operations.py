"""Operations on a view's pixels: names, strengths, geometry. Pure numbers, torchvision's to the letter.

The strength of an operation, a float64, is

    Shears: a ratio. Translations: a bin of 31, with its sign, because their pixels follow from the view's size
    (`in_pixels`). Rotate: degrees counter-clockwise. Brightness, Color, Contrast, Sharpness: the change of a factor
    around 1. Posterize: bits kept. Solarize: the first grey level inverted. Hue: turns of the colour circle.
    Blur: the Gaussian's deviation in pixels. Others: 0.
"""

import math
from functools import cache

import torch

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""RandAugment's, in torchvision's order. The first leaves the image as it is, and stands where none applies."""

NAMES = (*OPERATIONS, "Hue", "Grayscale", "Blur")
"""All operations that a plan may hold. A plan's numbers are places in this list."""

IDENTITY = 0
GEOMETRIC = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})
SIGNED = GEOMETRIC | {"Brightness", "Color", "Contrast", "Sharpness"}
NUM_BINS = 31

_STRONGEST = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
_STRONGEST |= {"Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9}


@cache
def _scale(start: float, end: float, bin_index: int) -> float:
    # float32, as torchvision has it: a blend with a factor one bit off can end one grey level off.
    return float(torch.linspace(start, end, NUM_BINS, dtype=torch.float32, device="cpu")[bin_index])


def strength(name: str, bin_index: int, negative: bool = False) -> float:
    """How strong RandAugment with 31 bins, as torchvision has it, makes an operation.

    Args:
        name: one of OPERATIONS.
        bin_index: 0..30.
        negative: the drawn sign; without effect on operations that have none.
    """
    sign = -1.0 if negative and name in SIGNED else 1.0
    if name.startswith("Translate"):
        return sign * bin_index
    if name == "Posterize":
        return float(8 - round(4 * bin_index / (NUM_BINS - 1)))
    if name == "Solarize":
        return _scale(255.0, 0.0, bin_index)
    return sign * _scale(0.0, _STRONGEST[name], bin_index) if name in _STRONGEST else 0.0


def in_pixels(translation: float, size: int) -> float:
    """The strength of a translation, in pixels of a square view of this side."""
    return math.copysign(_scale(0.0, 150.0 / 331.0 * size, int(abs(translation))), translation)


@cache
def inverse_affine(name: str, strength: float, size: int) -> tuple[float, float, float, float, float, float]:
    """The map of a geometric operation from the view it makes to the view it gets.

    Args:
        name: one of GEOMETRIC.
        strength: as above.
        size: side of the square view in pixels.

    Returns:
        (a, b, c, d, e, f): the point (x, y) of the result shows the point (a x + b y + c, d x + e y + f). Points are
        continuous: the centre of the first pixel is (0.5, 0.5). Shears keep the corner (0, 0) in its place, rotations
        the centre; translations are by whole pixels, cut towards zero.
    """
    if name == "ShearX":
        return (1.0, strength, 0.0, 0.0, 1.0, 0.0)
    if name == "ShearY":
        return (1.0, 0.0, 0.0, strength, 1.0, 0.0)
    if name == "TranslateX":
        return (1.0, 0.0, -float(int(in_pixels(strength, size))), 0.0, 1.0, 0.0)
    if name == "TranslateY":
        return (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(in_pixels(strength, size))))
    angle = -math.radians(strength % 360.0)
    # Pillow rounds as well; without it a pixel exactly between two others could go the other way.
    cos, sin, centre = round(math.cos(angle), 15), round(math.sin(angle), 15), size / 2
    return (
        cos,
        sin,
        cos * -centre + sin * -centre + centre,
        -sin,
        cos,
        -sin * -centre + cos * -centre + centre,
    )


@cache
def fixed_point_affine(name: str, strength: float, size: int) -> tuple[int, ...]:
    """`inverse_affine` from pixel to pixel, in Pillow's 16.16 fixed point: offsets are taken at the first's centre."""
    a, b, c, d, e, f = inverse_affine(name, strength, size)
    numbers = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)
    return tuple(math.floor(number * 65536.0 + 0.5) for number in numbers)
