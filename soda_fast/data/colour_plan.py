"""The colours of contrastive recipes, planned: jitter, grayscale, blur, solarize, each with a probability of its own.

Ranges are torchvision's: ColorJitter (its four changes in an order drawn for each view), RandomGrayscale, GaussianBlur,
RandomSolarize.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast import counter_rng
from soda_fast.config.schema import ViewConfig
from soda_fast.data.operations import IDENTITY, NAMES

Step = tuple[NDArray[np.int64], NDArray[np.float64]]  # (N, K) operations and strengths
_JITTER = np.array([NAMES.index(name) for name in ("Brightness", "Contrast", "Color", "Hue")])


def colour_steps(view: ViewConfig, seed: int, stream: str, positions: torch.Tensor) -> list[Step]:
    """What follows RandAugment, in this order; of what never happens there is no column."""

    def draw(name: str, count: int) -> NDArray[np.float64]:
        return counter_rng.uniform(seed, f"{stream}/{name}", positions, count).numpy()

    steps = []
    if view.jitter_probability:
        steps.append(_jitter(view, draw("jitter", 9)))
    if view.grayscale_probability:
        happens = draw("grayscale", 1) < view.grayscale_probability
        steps.append(_where(happens, "Grayscale", np.zeros(happens.shape)))
    if view.blur_probability:
        draws, (low, high) = draw("blur", 2), view.blur_sigma
        steps.append(_where(draws[:, :1] < view.blur_probability, "Blur", low + draws[:, 1:] * (high - low)))
    if view.solarize_probability:
        happens = draw("solarize", 1) < view.solarize_probability
        steps.append(_where(happens, "Solarize", np.full(happens.shape, view.solarize_threshold)))
    return steps


def describe_colour(view: ViewConfig) -> list[str]:
    """Each step in words, for reports."""
    changes = (view.jitter_brightness, view.jitter_contrast, view.jitter_saturation, view.jitter_hue)
    named = (
        (view.jitter_probability, "colour jitter ({:g}, {:g}, {:g}, {:g})".format(*changes)),
        (view.grayscale_probability, "grayscale"),
        (view.blur_probability, "blur (kernel {}, deviation {:g}..{:g})".format(view.blur_kernel, *view.blur_sigma)),
        (view.solarize_probability, f"solarize (from {view.solarize_threshold:g})"),
    )
    return [f"{words} with probability {probability:g}" for probability, words in named if probability]


def _jitter(view: ViewConfig, draws: NDArray[np.float64]) -> Step:
    """draws: (N, 9): whether, the four strengths, the order."""
    reach = np.array([view.jitter_brightness, view.jitter_contrast, view.jitter_saturation, view.jitter_hue])
    # Factors lie in max(0, 1 - reach)..1 + reach; hue in -reach..reach.
    low = -np.minimum(reach, 1.0)
    strengths = low + draws[:, 1:5] * (reach - low)
    order = np.argsort(draws[:, 5:], axis=1, kind="stable")
    happens = (draws[:, :1] < view.jitter_probability) & (reach[order] > 0)
    return np.where(happens, _JITTER[order], IDENTITY), np.where(
        happens, np.take_along_axis(strengths, order, axis=1), 0.0
    )


def _where(happens: NDArray[np.bool_], name: str, strengths: NDArray[np.float64]) -> Step:
    return np.where(happens, NAMES.index(name), IDENTITY), np.where(happens, strengths, 0.0)
