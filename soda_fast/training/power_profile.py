"""Power-function averages of weights: their profiles, decays, and the least squares that makes one of others.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696),
sections 3.1 and 3.2, appendix C. Time is counted in optimisation steps, from 1. The length of an average is sigma_rel,
the standard deviation of its profile relative to the time that has passed: the same share of a run at any moment.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SINGULAR = 1e-13
"""Relative to the largest singular value: what rounding leaves of a direction in which the profiles do not differ."""


def exponent_of(length: float) -> float:
    """gamma > 0 of the average of a relative length sigma_rel in (0, 12 ** -0.5).

    The largest root of sigma_rel ** 2 = (gamma + 1) / ((gamma + 2) ** 2 (gamma + 3)), as in algorithm 2.
    """
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay(step: int, exponent: float) -> float:
    """beta(t) = (1 - 1 / t) ** (gamma + 1) of step t = 1, 2, ..: 0 at the first, which copies (section 3.1)."""
    return (1.0 - 1.0 / step) ** (exponent + 1.0)


def combine(
    times: Sequence[int], exponents: Sequence[float], time: int, wanted: Sequence[float]
) -> tuple[Floats, Floats]:
    """How to make averages at `time` of N averages at other times, and how well that succeeds.

    Least squares between profiles, as in algorithm 3, with one thing more: the coefficients of an average sum to 1, as
    every profile's integral is 1, so that what training has left constant stays as it is.

    Args:
        times, exponents: of the N averages, at most `time`; pairs are distinct.
        wanted: M exponents.

    Returns:
        Coefficients (N, M), and errors (M,): the L2 distance between the profile that is wanted and the one that is
        made, relative to the L2 norm of the first. 0: exact.
    """
    # Relative to `time`, on which neither coefficients nor errors depend.
    t, g = np.asarray(times, dtype=np.float64) / time, np.asarray(exponents, dtype=np.float64)
    now, w = np.ones(len(wanted)), np.asarray(wanted, dtype=np.float64)
    products, targets = _inner_products(t, g, t, g), _inner_products(t, g, now, w)
    norms = np.sqrt(np.diag(products))
    system = np.block(
        [
            [products / np.outer(norms, norms), (1 / norms)[:, None]],
            [(1 / norms)[None, :], np.zeros((1, 1))],
        ]
    )
    right = np.vstack([targets / norms[:, None], np.ones(len(wanted))])
    solution = np.linalg.lstsq(system, right, rcond=_SINGULAR)[0]
    coefficients = solution[:-1] / norms[:, None]
    squares = (w + 1) ** 2 / (2 * w + 1)
    rest = squares - 2 * (targets * coefficients).sum(0) + (coefficients * (products @ coefficients)).sum(0)
    return coefficients, np.sqrt(np.maximum(rest, 0) / squares)


def _inner_products(t: Floats, g: Floats, u: Floats, h: Floats) -> Floats:
    """(N, M): integrals of the products of the profiles (g + 1) x ** g / t ** (g + 1) on [0, t], and of (u, h)."""
    ta, ga, tb, gb = np.broadcast_arrays(t[:, None], g[:, None], u[None, :], h[None, :])
    power = np.where(ta < tb, gb, -ga)
    return (ga + 1) * (gb + 1) * (ta / tb) ** power / ((ga + gb + 1) * np.maximum(ta, tb))
