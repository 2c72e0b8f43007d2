"""Structural similarity of images (Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing 13(4), 2004).

Our own: TorchMetrics (1.9) mirrors the image at its edges and counts the places where the window hangs over them, which
on images as small as these is up to 0.8 % off the paper's mean. The test compares with the equation, place by place.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_SIDE = 11  # pixels of the window, and so the least that an image can have
_SIGMA = 1.5  # of the window's Gaussian, in pixels
_K1, _K2 = 0.01, 0.03


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(N,) float64: the mean over channels and over all places at which the window lies inside of the image.

    The window is an 11x11 Gaussian of deviation 1.5, variances are not corrected for the sample's size, and the
    constants are K1 = 0.01 and K2 = 0.03, as in the paper; computed in float64.

    Args:
        x, y: (N, C, H, W) floating point in [0, 1].

    Raises:
        ValueError: different shapes, or a side below 11 pixels.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"images of the shapes {tuple(x.shape)} and {tuple(y.shape)}: give two equal (N, C, H, W)")
    if min(x.shape[2:]) < SSIM_SIDE:
        raise ValueError(f"images of {x.shape[2]}x{x.shape[3]} pixels: SSIM's window has {SSIM_SIDE}x{SSIM_SIDE}")
    # Each channel is an image of its own.
    planes = [images.double().flatten(0, 1)[:, None] for images in (x, y)]
    mean_x, mean_y = (_blurred(plane) for plane in planes)
    variance_x, variance_y = (_blurred(p * p) - mean * mean for p, mean in zip(planes, (mean_x, mean_y)))
    covariance = _blurred(planes[0] * planes[1]) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3)).view(x.shape[:2]).mean(dim=1)


def _blurred(planes: Tensor) -> Tensor:
    """(M, 1, H, W) -> (M, 1, H - 10, W - 10): the Gaussian's average at each place of the window."""
    offsets = torch.arange(SSIM_SIDE, dtype=torch.float64, device=planes.device) - SSIM_SIDE // 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
