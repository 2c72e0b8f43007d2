"""A plan's operations on whole batches, on any device, equal to torchvision on Pillow images in every grey level.

(Blur alone may differ by one grey level, where two sums of floats round apart.) The plan is known beforehand, so the
samples of a batch are sorted by operation: a handful of tensor operations for each group, no conditionals, no wait for
the device. Arithmetic is Pillow's: integers, or float32 cut towards zero. On a GPU a Triton kernel does the same to
views of up to 64 pixels in one launch (`step_table.py`); blur, and steps of a batch with some, stay here. On a CPU with
a C compiler most of them are done image by image instead. All make the same levels.
"""

from collections.abc import Callable
from itertools import groupby, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soda_fast.config.types import Kernels
from soda_fast.data.colour_operations import blur, grayscale, grey, shift_hue
from soda_fast.data.operations import GEOMETRIC, IDENTITY, NAMES, fixed_point_affine
from soda_fast.data.step_table import HAVE_STEPS, step_table
from soda_fast.data.transfer import to_device
from soda_fast.data.views import ViewPlan
from soda_fast.fused_views import carries_out, carry_out
from soda_fast.pixels import change as change_in_c

_INT32_SIZE = 4096  # up to which 16.16 fixed point coordinates fit into 32 bits
Change = Callable[[Tensor, Tensor], Tensor]  # (N, S, S, 3) uint8, (N,) float64 strengths -> the same, changed


def apply_operations(images: Tensor, plan: ViewPlan, kernels: Kernels = "auto") -> Tensor:
    """Carry out the operations of a plan.

    Args:
        images: (N, S, S, 3) uint8 RGB, contiguous; overwritten.
        plan: of these N images.
        kernels: data.kernels.

    Returns:
        `images`.
    """
    takes_steps = carries_out(kernels, images.device, images.shape[1])
    fused = [takes_steps and bool(HAVE_STEPS[step].all()) for step in plan.operations.T]
    for together, steps in groupby(range(len(fused)), lambda step: fused[step]):
        which = list(steps)
        operations, strengths = plan.operations[:, which], plan.strengths[:, which]
        if together:
            carry_out(images, to_device(step_table(operations, strengths, images.shape[1]), images.device))
            continue
        for some, strong in zip(operations.T, strengths.T, strict=True):
            left = apply_compiled(images, some, strong) if images.device.type == "cpu" else some
            _apply_step(images, left, strong, plan.blur_kernel)
    return images


def apply_compiled(images: Tensor, operations: NDArray[np.int64], strengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Carry out one operation for each image in C, in place.

    Args:
        images: (N, S, S, 3) uint8, contiguous, on the CPU.
        operations, strengths: (N,), of a plan.

    Returns:
        (N,), the operations that are left to do: Identity where this was done. All, where there is no compiler.
    """
    left = ~_IN_C[operations]
    done = change_in_c(images, step_table(np.where(left, IDENTITY, operations), strengths, images.shape[1]))
    return np.where(left, operations, IDENTITY) if done else operations


def _apply_step(images: Tensor, operations: NDArray[np.int64], strengths: NDArray[np.float64], kernel: int) -> None:
    """One operation for each image."""
    groups = _GROUP_OF[operations]
    order = np.argsort(groups, kind="stable")
    # Where each group begins; group 0 is left alone, and the last bound is the end.
    bounds = np.searchsorted(groups[order], np.arange(max(_GROUPS.values()) + 2))
    rows = order[bounds[1] :]
    if not len(rows):
        return
    where = to_device(rows, images.device)
    chosen, strong = images[where], to_device(strengths[rows], images.device)
    parts = [slice(start - bounds[1], end - bounds[1]) for start, end in pairwise(bounds[1:])]
    warped, blurred, *others = parts
    if warped.stop > warped.start:
        matrices = _matrices(operations[rows[warped]], strengths[rows[warped]], images.shape[1])
        chosen[warped] = _warp(chosen[warped], to_device(matrices, images.device))
    if blurred.stop > blurred.start:
        chosen[blurred] = blur(chosen[blurred], strong[blurred], kernel)
    for part, change in zip(others, _CHANGES.values(), strict=True):
        if part.stop > part.start:
            chosen[part] = change(chosen[part], strong[part])
    images[where] = chosen


def _matrices(operations: NDArray[np.int64], strengths: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """(N, 6): the maps of geometric operations in 16.16 fixed point."""
    pairs = zip(operations.tolist(), strengths.tolist(), strict=True)
    return np.array([fixed_point_affine(NAMES[name], strength, size) for name, strength in pairs])


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Nearest neighbour, black outside, in Pillow's 16.16 fixed point. matrices: (N, 6)."""
    count, size = images.shape[:2]
    exact = torch.int32 if size <= _INT32_SIZE else torch.int64
    a, b, c, d, e, f = matrices.to(exact).T[:, :, None, None]
    pixel = torch.arange(size, dtype=exact, device=images.device)
    x, y = (a * pixel + (b * pixel[:, None] + c)) >> 16, (d * pixel + (e * pixel[:, None] + f)) >> 16
    # What lies outside is one black pixel away: a frame around each image, picked like any other.
    framed, wide = functional.pad(images, (0, 0, 1, 1, 1, 1)), size + 2
    first = torch.arange(0, count * wide * wide, wide * wide, device=images.device)[:, None, None]
    source = first + x.clamp_(-1, size).add_(1).add_(y.clamp_(-1, size).add_(1).mul_(wide))
    return framed.flatten(0, 2).index_select(0, source.flatten()).view_as(images)


def _brightness(images: Tensor, strengths: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images), images, strengths)


def _color(images: Tensor, strengths: Tensor) -> Tensor:
    return _blend(grey(images), images, strengths)


def _contrast(images: Tensor, strengths: Tensor) -> Tensor:
    total, pixels = grey(images).sum(dim=(1, 2, 3), dtype=torch.int64), images.shape[1] * images.shape[2]
    mean = torch.div(2 * total + pixels, 2 * pixels, rounding_mode="floor")
    return _blend(mean[:, None, None, None], images, strengths)


def _sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    return _blend(_smooth(images), images, strengths)


def _blend(degenerate: Tensor, images: Tensor, strengths: Tensor) -> Tensor:
    """degenerate + factor * (image - degenerate), cut towards zero; factor is 1 + strength."""
    factor = (1.0 + strengths).to(torch.float32)[:, None, None, None]
    start = degenerate.to(torch.float32)
    return (images - start).mul_(factor).add_(start).clamp_(0, 255).to(torch.uint8)


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH: 3x3 mean with the centre counted five times; the border stays."""
    smooth = images.to(torch.int32)
    rows = smooth[:, :-2] + smooth[:, 1:-1] + smooth[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * smooth[:, 1:-1, 1:-1]
    smooth[:, 1:-1, 1:-1] = torch.div(2 * total + 13, 26, rounding_mode="floor")
    return smooth


def _posterize(images: Tensor, strengths: Tensor) -> Tensor:
    kept = 256 - 2 ** (8 - strengths)
    return images & kept.to(torch.uint8)[:, None, None, None]


def _solarize(images: Tensor, strengths: Tensor) -> Tensor:
    first = strengths.ceil().to(torch.int16)[:, None, None, None]
    return torch.where(images < first, images, 255 - images)


def _auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Each channel stretched to 0..255, through a table as Pillow does it, in float64, because it does so in Python."""
    low, high = images.amin(dim=(1, 2))[:, None], images.amax(dim=(1, 2))[:, None]
    span = (high.double() - low).clamp_(min=1.0)
    # 255.0 / span would be span's reciprocal times 255, and a bit off.
    scale = torch.full_like(span, 255.0) / span
    level = torch.arange(256, dtype=torch.uint8, device=images.device)[:, None]
    stretched = (level * scale + -low.double() * scale).clamp_(0, 255).to(torch.uint8)
    table = torch.where(high > low, stretched, level)
    return table.gather(1, images.flatten(1, 2).to(torch.int64)).view_as(images)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel's histogram made flat, as Pillow does it."""
    count, size = images.shape[0] * 3, images.shape[1]
    levels = images.permute(0, 3, 1, 2).reshape(count, size * size).to(torch.int64)
    histogram = torch.zeros(count, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, levels, levels.new_ones(1).expand_as(levels))
    brightest = histogram.gather(1, levels.amax(dim=1, keepdim=True))
    step = torch.div(size * size - brightest, 255, rounding_mode="floor")
    before = histogram.cumsum(dim=1) - histogram
    divisor = step.clamp(min=1)
    table = torch.div(torch.div(step, 2, rounding_mode="floor") + before, divisor, rounding_mode="floor").clamp_(
        max=255
    )
    changed = torch.where(step > 0, table.gather(1, levels), levels)
    return changed.view(-1, 3, size, size).permute(0, 2, 3, 1).to(torch.uint8)


_CHANGES: dict[str, Change] = {
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Hue": shift_hue,
    "Grayscale": grayscale,
}
assert {NAMES[IDENTITY], "Blur", *GEOMETRIC, *_CHANGES} == set(NAMES), "every operation has an implementation"
_GROUPS = {NAMES[IDENTITY]: 0, **dict.fromkeys(GEOMETRIC, 1), "Blur": 2, **{n: 3 + k for k, n in enumerate(_CHANGES)}}
_GROUP_OF = np.array([_GROUPS[name] for name in NAMES])
_IN_C = HAVE_STEPS & (np.array(NAMES) != "Hue")
