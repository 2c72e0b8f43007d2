"""What happens to a view, as numbers: drawn from (seed, stream, position) alone, so that any backend can carry it out.

A plan of one position does not depend on who else is in the batch, on the process, or on the backend.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast import counter_rng
from soda_fast.config.schema import ViewConfig
from soda_fast.data.colour_plan import colour_steps, describe_colour
from soda_fast.data.operations import IDENTITY, OPERATIONS, strength

_ATTEMPTS = 10  # torchvision's RandomResizedCrop gives up after as many

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ViewPlan:
    """What to do to N images, in this order: cut out a box, resize it to a square, mirror it, apply operations.

    top, left, height, width: (N,) int64, the box in pixels of the original image, inside it.
    flip: (N,) bool, mirror left to right.
    operations: (N, K) int64, places in operations.NAMES, one after the other; Identity where nothing is to be done.
    strengths: (N, K) float64, as operations.py defines them.
    blur_kernel: side of a blur's kernel in pixels, odd; torchvision's is cut off there.
    """

    top: Ints
    left: Ints
    height: Ints
    width: Ints
    flip: Bools
    operations: Ints
    strengths: Floats
    blur_kernel: int = 1

    def __len__(self) -> int:
        return len(self.top)

    def rows(self, which: slice | Ints) -> "ViewPlan":
        """The plan of some of the images."""
        boxes = (self.top[which], self.left[which], self.height[which], self.width[which])
        return ViewPlan(*boxes, self.flip[which], self.operations[which], self.strengths[which], self.blur_kernel)


def plan(view: ViewConfig, seed: int, stream: str, positions: Ints, heights: Ints, widths: Ints) -> ViewPlan:
    """Decide what happens to the view of each position.

    Args:
        view: probabilities and ranges.
        seed: of the run.
        stream: which view ("source", "target", ...); different names give independent plans.
        positions: (N,) int64, the samples' places in the run.
        heights, widths: (N,) int64, sizes of the samples' images in pixels.
    """
    where = torch.from_numpy(np.ascontiguousarray(positions, np.int64))
    gates = counter_rng.uniform(seed, f"{stream}/gate", where, 3).numpy()
    cropped = gates[:, 0] < view.crop_flip_probability
    draws = counter_rng.uniform(seed, f"{stream}/crop", where, 4 * _ATTEMPTS).numpy().reshape(-1, _ATTEMPTS, 4)
    random_box = random_resized_crop(draws, heights, widths, view.crop_scale, view.crop_ratio)
    top, left, height, width = np.where(cropped, random_box, central_square(heights, widths))
    flip = cropped & (gates[:, 1] < view.flip_probability)
    steps = [_randaugment(view, seed, stream, where, gates[:, 2] < view.randaugment_probability)]
    steps += colour_steps(view, seed, stream, where)
    operations, strengths = (np.concatenate(columns, axis=1) for columns in zip(*steps, strict=True))
    return ViewPlan(top, left, height, width, flip, operations, strengths, view.blur_kernel)


def clean_plan(heights: Ints, widths: Ints) -> ViewPlan:
    """The plan without chance: the central square. heights, widths: (N,) int64 pixels."""
    top, left, height, width = central_square(heights, widths)
    count = len(heights)
    nothing = np.zeros((count, 0))
    return ViewPlan(top, left, height, width, np.zeros(count, bool), nothing.astype(np.int64), nothing)


def describe_view(view: ViewConfig) -> str:
    """A view in words, for reports."""
    (low, high), (narrow, wide) = view.crop_scale, view.crop_ratio
    words = (
        f"random resized crop (area {low:g}..{high:g}, ratio {narrow:.3g}..{wide:.3g}) and flip "
        f"({view.flip_probability:g}), together with probability {view.crop_flip_probability:g}"
    )
    if view.randaugment_probability and view.randaugment_num_ops:
        words += (
            f"; RandAugment ({view.randaugment_num_ops} operations, magnitude {view.randaugment_magnitude}) "
            f"with probability {view.randaugment_probability:g}"
        )
    return "; ".join([words, *describe_colour(view)])


def central_square(heights: Ints, widths: Ints) -> Ints:
    """(4, N): top, left, height, width of the largest square in the middle; halves rounded as torchvision does."""
    side = np.minimum(heights, widths)
    top = np.round((heights - side) / 2.0).astype(np.int64)
    left = np.round((widths - side) / 2.0).astype(np.int64)
    return np.stack((top, left, side, side))


def random_resized_crop(
    draws: Floats, heights: Ints, widths: Ints, scale: tuple[float, float], ratio: tuple[float, float]
) -> Ints:
    """The crop box: the first of ten attempts that fits into the image, else torchvision's central fallback.

    Args:
        draws: (N, 10, 4) uniform in (0, 1): area, ratio, top and left of each attempt.
        heights, widths: (N,) image sizes in pixels.
        scale: range of the box's share of the image's area, uniform.
        ratio: range of width / height, log-uniform.

    Returns:
        (4, N): top, left, height, width.
    """
    area = (heights * widths)[:, None] * (scale[0] + draws[..., 0] * (scale[1] - scale[0]))
    log_low, log_high = np.log(ratio)
    aspect = np.exp(log_low + draws[..., 1] * (log_high - log_low))
    width = np.round(np.sqrt(area * aspect)).astype(np.int64)
    height = np.round(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= widths[:, None]) & (height > 0) & (height <= heights[:, None])
    rows, first = np.arange(len(heights)), fits.argmax(axis=1)
    height, width = height[rows, first], width[rows, first]
    top = np.floor(draws[rows, first, 2] * (heights - height + 1)).astype(np.int64)
    left = np.floor(draws[rows, first, 3] * (widths - width + 1)).astype(np.int64)
    return np.where(fits.any(axis=1), np.stack((top, left, height, width)), _fallback(heights, widths, ratio))


def _fallback(heights: Ints, widths: Ints, ratio: tuple[float, float]) -> Ints:
    """(4, N): the largest central box whose ratio is allowed; the whole image where its own is."""
    image_ratio = widths / heights
    height = np.where(image_ratio < ratio[0], np.round(widths / ratio[0]).astype(np.int64), heights)
    width = np.where(image_ratio > ratio[1], np.round(heights * ratio[1]).astype(np.int64), widths)
    # torchvision rounds to a box without pixels where the ratio is more extreme than a row or a column, and then fails.
    height, width = np.maximum(height, 1), np.maximum(width, 1)
    return np.stack(((heights - height) // 2, (widths - width) // 2, height, width))


def _randaugment(
    view: ViewConfig, seed: int, stream: str, positions: torch.Tensor, augmented: Bools
) -> tuple[Ints, Floats]:
    """(N, K) operations and strengths; Identity where RandAugment does not apply."""
    count = view.randaugment_num_ops
    draws = counter_rng.uniform(seed, f"{stream}/randaugment", positions, 2 * count).numpy()
    operations = np.floor(draws[:, :count] * len(OPERATIONS)).astype(np.int64)
    operations = np.where(augmented[:, None], operations, IDENTITY)
    negative = (draws[:, count:] < 0.5).astype(np.int64)
    return operations, _strengths(view.randaugment_magnitude)[negative, operations]


@cache
def _strengths(bin_index: int) -> Floats:
    """(2, 14): RandAugment's strengths, without and with the sign."""
    return np.array([[strength(name, bin_index, negative) for name in OPERATIONS] for negative in (False, True)])
