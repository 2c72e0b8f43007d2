"""Grayscale, hue and blur on whole batches, as torchvision does them to Pillow images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from soda_fast.data.transfer import to_device


def grey(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, S, S, 1) int32: Pillow's conversion to "L"."""
    red, green, blue = images.to(torch.int32).split(1, dim=-1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def grayscale(images: Tensor, _: Tensor) -> Tensor:
    """(N, S, S, 3) uint8, all channels alike."""
    return grey(images).to(torch.uint8).expand(-1, -1, -1, 3)


def shift_hue(images: Tensor, strengths: Tensor) -> Tensor:
    """Turn the colour circle, by way of Pillow's 8-bit HSV, as torchvision does. strengths: (N,), -0.5..0.5 turns."""
    hue, saturation, value = _to_hsv(images)
    turn = (strengths * 255).to(torch.int32)[:, None, None]  # cut towards zero, as torchvision does
    return _to_rgb((hue + turn) & 0xFF, saturation, value)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, S, S) int32 each, 0..255. Pillow computes in float32, with double constants."""
    red, green, blue = images.to(torch.int32).unbind(dim=-1)
    value = torch.maximum(torch.maximum(red, green), blue)
    span = value - torch.minimum(torch.minimum(red, green), blue)
    chroma = span.clamp(min=1).to(torch.float32)
    from_red, from_green, from_blue = ((value - channel) / chroma for channel in (red, green, blue))
    hue = torch.where(
        red == value,
        from_blue - from_green,
        torch.where(
            green == value,
            (2.0 + from_red.double() - from_blue).float(),
            (4.0 + from_green.double() - from_red).float(),
        ),
    )
    # Pillow keeps fmod's double result in a float32.
    hue = torch.fmod(hue.double() / 6.0 + 1.0, 1.0).float()
    saturation = chroma / value.clamp(min=1)
    coloured = span > 0
    levels = ((part.double() * 255.0).to(torch.int32).clamp_(0, 255) * coloured for part in (hue, saturation))
    return next(levels), next(levels), value


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 from int32 levels."""
    sixths = hue.double() * 6.0 / 255.0
    sector = sixths.floor()
    within = (sixths - sector).float()
    strong = (saturation.double() / 255.0).float()
    # Pillow multiplies the first two in float32, the third in double.
    shares = (strong, strong * within, strong.double() * (1.0 - within.double()))
    low, falling, rising = (_round(value * (1.0 - share.double())) for share in shares)
    choices = torch.stack((value, falling, low, low, rising, value, value, falling), dim=-1)
    # Red, green and blue of the sectors 0..5; the sixth is the first again.
    sector = sector.to(torch.int64) % 6
    table = to_device(_SECTORS, hue.device)
    return choices.gather(-1, table[sector]).to(torch.uint8)


_VALUE, _FALLING, _LOW, _RISING = 0, 1, 2, 4
_SECTORS = np.array(
    (
        (_VALUE, _RISING, _LOW),
        (_FALLING, _VALUE, _LOW),
        (_LOW, _VALUE, _RISING),
        (_LOW, _FALLING, _VALUE),
        (_RISING, _LOW, _VALUE),
        (_VALUE, _LOW, _FALLING),
    )
)


def _round(levels: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    return (levels + 0.5).floor().to(torch.int32).clamp_(0, 255)


def blur(images: Tensor, strengths: Tensor, kernel: int) -> Tensor:
    """Gaussian blur with reflected borders. strengths: (N,) float64, deviations in pixels. kernel: side, odd."""
    size = images.shape[1]
    reach = (kernel - 1) * 0.5
    offset = torch.linspace(-reach, reach, kernel, dtype=torch.float32, device=images.device)
    weights = torch.exp(-0.5 * (offset / strengths.float()[:, None]).pow(2))
    weights = weights / weights.sum(dim=1, keepdim=True)
    planes = images.permute(0, 3, 1, 2).float()
    planes = F.pad(planes, [kernel // 2] * 4, mode="reflect")
    # Not conv2d, which on a GPU may round its inputs (TF32).
    wide = _weighted_shifts(planes, 3, size, weights)
    return _weighted_shifts(wide, 2, size, weights).round_().to(torch.uint8).permute(0, 2, 3, 1)


def _weighted_shifts(planes: Tensor, dim: int, size: int, weights: Tensor) -> Tensor:
    """The sum of the K windows of `size` along `dim`, each times its weight. weights: (N, K)."""
    total = planes.narrow(dim, 0, size) * weights[:, 0, None, None, None]
    for tap in range(1, weights.shape[1]):
        total.addcmul_(planes.narrow(dim, tap, size), weights[:, tap, None, None, None])
    return total
