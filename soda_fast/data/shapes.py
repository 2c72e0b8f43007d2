"""Rendered shapes whose factors are known: to see which of them features tell apart."""

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast import counter_rng

FACTORS = ("horizontal", "vertical", "size", "form", "red", "green", "blue")


def draw_factors(seed: int, count: int) -> NDArray[np.float64]:
    """(count, 7), uniform in (0, 1) and independent, in the order of FACTORS; the first of them for any count."""
    return counter_rng.uniform(seed, "shapes", torch.arange(count, device="cpu"), len(FACTORS)).numpy()


def render_shapes(factors: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """(N, side, side, 3) RGB: one shape on black, which always lies inside of the image.

    The shape is a ball of the p-norm, p = 2^(3 form): from a diamond over a disc to almost a square. Its centre lies up
    to 0.2 sides off the middle, its radius is 0.12 to 0.26 sides; its channels' levels are 0.2 to 1. Edges are
    blended over one pixel.
    """
    middles = (np.arange(side) + 0.5) / side - 0.5
    images = np.empty((len(factors), side, side, 3), np.uint8)
    for image, (horizontal, vertical, size, form, *colour) in zip(images, factors):
        x, y = np.abs(middles - 0.4 * (horizontal - 0.5)), np.abs(middles - 0.4 * (vertical - 0.5))
        power, radius = 2 ** (3 * form), 0.12 + 0.14 * size
        distance = (x[None, :] ** power + y[:, None] ** power) ** (1 / power)
        covered = np.clip((radius - distance) * side + 0.5, 0, 1)
        image[:] = np.round(255 * covered[..., None] * (0.2 + 0.8 * np.array(colour)))
    return images
