"""RandAugment on whole batches, on any device, equal to torchvision on Pillow images in every grey level.

The plan is known beforehand, so the samples of a batch are grouped by operation: a handful of tensor operations for
each group, no conditionals, no wait for the device. Arithmetic is Pillow's: integers, or float32 cut towards zero.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from soda_fast.data.operations import GEOMETRIC, IDENTITY, OPERATIONS, inverse_affine, magnitude
from soda_fast.data.views import ViewPlan

Strengths = list[tuple[str, float]]  # name and magnitude of the operation of each sample
Change = Callable[[Tensor, Strengths], Tensor]  # (N, S, S, 3) uint8 -> the same, changed


def apply_randaugment(images: Tensor, plan: ViewPlan) -> Tensor:
    """Carry out the operations of a plan.

    Args:
        images: (N, S, S, 3) uint8 RGB; overwritten.
        plan: of these N images.

    Returns:
        `images`.
    """
    for step in range(plan.operations.shape[1]):
        chosen = plan.operations[:, step]
        geometric = np.isin(chosen, [OPERATIONS.index(name) for name in sorted(GEOMETRIC)])
        groups: list[tuple[np.ndarray, Change]] = [(np.flatnonzero(geometric), _warp)]
        groups += [(np.flatnonzero(chosen == OPERATIONS.index(name)), change) for name, change in _CHANGES.items()]
        for rows, change in groups:
            if len(rows):
                where = torch.from_numpy(rows).to(images.device, non_blocking=True)
                images[where] = change(images[where], _strengths(plan, rows, step, images.shape[1]))
    return images


def _strengths(plan: ViewPlan, rows: np.ndarray, step: int, size: int) -> Strengths:
    """Name and magnitude of the operation of each row."""
    return [
        (name, magnitude(name, plan.magnitude_bin, size, bool(plan.negative[row, step])))
        for row, name in ((row, OPERATIONS[plan.operations[row, step]]) for row in rows)
    ]


def _warp(images: Tensor, strengths: Strengths) -> Tensor:
    """Nearest neighbour, black outside, in Pillow's 16.16 fixed point."""
    size = images.shape[1]
    steps = np.array([_fixed_point(inverse_affine(name, strength, size)) for name, strength in strengths])
    a, b, c, d, e, f = torch.from_numpy(steps).to(images.device, non_blocking=True).T[:, :, None, None]
    pixel = torch.arange(size, device=images.device)
    x, y = (a * pixel + b * pixel[:, None] + c) >> 16, (d * pixel + e * pixel[:, None] + f) >> 16
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    source = (y.clamp(0, size - 1) * size + x.clamp(0, size - 1)).flatten(1)
    picked = images.flatten(1, 2).gather(1, source[..., None].expand(-1, -1, 3)).view_as(images)
    return picked * inside[..., None]


def _fixed_point(matrix: tuple[float, ...]) -> list[int]:
    a, b, c, d, e, f = matrix
    # Offsets are taken at the centre of the first pixel.
    return [int(np.floor(v * 65536.0 + 0.5)) for v in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)]


def _brightness(images: Tensor, strengths: Strengths) -> Tensor:
    return _blend(torch.zeros_like(images), images, strengths)


def _color(images: Tensor, strengths: Strengths) -> Tensor:
    return _blend(_grey(images), images, strengths)


def _contrast(images: Tensor, strengths: Strengths) -> Tensor:
    total, pixels = _grey(images).sum(dim=(1, 2, 3), dtype=torch.int64), images.shape[1] * images.shape[2]
    mean = torch.div(2 * total + pixels, 2 * pixels, rounding_mode="floor")
    return _blend(mean[:, None, None, None], images, strengths)


def _sharpness(images: Tensor, strengths: Strengths) -> Tensor:
    return _blend(_smooth(images), images, strengths)


def _blend(degenerate: Tensor, images: Tensor, strengths: Strengths) -> Tensor:
    """degenerate + factor * (image - degenerate), cut towards zero; factor is 1 + strength."""
    factor = torch.tensor([1.0 + strength for _, strength in strengths], dtype=torch.float32)
    factor = factor.to(images.device, non_blocking=True)[:, None, None, None]
    start = degenerate.to(torch.float32)
    return (start + factor * (images - start)).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """(N, S, S, 1) int32: Pillow's conversion to "L"."""
    red, green, blue = images.to(torch.int32).split(1, dim=-1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH: 3x3 mean with the centre counted five times; the border stays."""
    smooth = images.to(torch.int32)
    rows = smooth[:, :-2] + smooth[:, 1:-1] + smooth[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * smooth[:, 1:-1, 1:-1]
    smooth[:, 1:-1, 1:-1] = torch.div(2 * total + 13, 26, rounding_mode="floor")
    return smooth


def _posterize(images: Tensor, strengths: Strengths) -> Tensor:
    return images & (0xFF & ~(2 ** (8 - int(strengths[0][1])) - 1))


def _solarize(images: Tensor, strengths: Strengths) -> Tensor:
    return torch.where(images < strengths[0][1], images, 255 - images)


def _auto_contrast(images: Tensor, _: Strengths) -> Tensor:
    """Each channel stretched to 0..255. float64, because Pillow computes the table in Python."""
    low, high = images.amin(dim=(1, 2), keepdim=True), images.amax(dim=(1, 2), keepdim=True)
    span = (high.double() - low).clamp_(min=1.0)
    # 255.0 / span would be span's reciprocal times 255, and a bit off.
    scale = torch.full_like(span, 255.0) / span
    stretched = (images * scale + -low.double() * scale).clamp_(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def _equalize(images: Tensor, _: Strengths) -> Tensor:
    """Each channel's histogram made flat, as Pillow does it."""
    count, size = images.shape[0] * 3, images.shape[1]
    levels = images.permute(0, 3, 1, 2).reshape(count, size * size).to(torch.int64)
    histogram = torch.zeros(count, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
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
}
assert {OPERATIONS[IDENTITY], *GEOMETRIC, *_CHANGES} == set(OPERATIONS), "every operation has an implementation"
