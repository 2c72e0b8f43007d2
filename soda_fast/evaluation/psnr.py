"""How far a reconstruction is from its original, level by level."""

import torch
from torch import Tensor

_LEAST_ERROR = 1e-10  # mean squared; PSNR counts a smaller one as this


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """(N,) float64 peak signal-to-noise ratio of each pair of images in [0, 1], in dB, at most 100.

    Equal images would have infinity, and so would every mean with them. 100 dB is a mean squared error of 1e-10: one
    level of 256 in one channel of one pixel among 226x226.

    Args:
        x, y: (N, C, H, W) floating point in [0, 1].

    Raises:
        ValueError: different shapes.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"images of the shapes {tuple(x.shape)} and {tuple(y.shape)}: give two equal (N, C, H, W)")
    mean_squared_error = (x.double() - y.double()).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(mean_squared_error.clamp_min(_LEAST_ERROR))
