"""Pillow's bilinear resizing as integers: which pixels count, and for how much.

Pillow resizes 8-bit images in two passes, first along rows and then along columns, each a weighted sum in fixed point.
Shrinking widens the triangle that weighs the pixels (antialiasing); at a border it is cut off and scaled up again.
"""

import math

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22  # weights are multiples of 2**-22, so that 8-bit pixels sum up inside 32 bits


def most_taps(longest: int, size: int) -> int:
    """K, for every length up to `longest`, to `size`: the most pixels that one result needs."""
    return math.ceil(max(1.0, longest / size)) * 2 + 1


def resize_weights(longest: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For lengths 0..L, the longest, to one length S, with K pixels for each result.

    Returns:
        (L + 1, S), the first of the pixels that count, and (L + 1, S, K), their weights in units of 2**-22; 0 for
        pixels that do not count.
    """
    taps = most_taps(longest, size)
    first = np.zeros((longest + 1, size), np.int64)
    weights = np.zeros((longest + 1, size, taps), np.int32)
    for length in range(1, longest + 1):
        first[length], weights[length] = _of_length(length, size, taps)
    return first, weights


def _of_length(length: int, size: int, taps: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    scale = length / size
    reach = max(1.0, scale)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum(0, np.trunc(centre - reach + 0.5).astype(np.int64))
    last = np.minimum(length, np.trunc(centre + reach + 0.5).astype(np.int64))
    pixel = first[:, None] + np.arange(taps)
    distance = np.abs((pixel - centre[:, None] + 0.5) * (1.0 / reach))
    weight = np.where(pixel < last[:, None], np.maximum(0.0, 1.0 - distance), 0.0)
    total = np.zeros(size)
    for tap in range(taps):  # in Pillow's order: a sum of floats depends on it
        total += weight[:, tap]
    return first, np.trunc(weight / total[:, None] * 2.0**PRECISION_BITS + 0.5).astype(np.int32)
