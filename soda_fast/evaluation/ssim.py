"""Structural similarity of images (Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing 13(4), 2004).

By scikit-image, which averages over the places where the window lies inside of the image, as the paper does.
TorchMetrics (1.9) counts those at mirrored edges too: on images as small as these up to 0.8 % off.
"""

import torch
from torch import Tensor

SSIM_SIDE = 11  # pixels of the window, and so the least that an image can have


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(N,) float64 on the CPU: the mean over channels and over all places at which the window lies inside of the image.

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
    # It takes a second to import, and few commands need it.
    from skimage.metrics import structural_similarity

    scores = [
        structural_similarity(
            *pair, data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for pair in zip(x.double().cpu().numpy(), y.double().cpu().numpy(), strict=True)
    ]
    return torch.tensor(scores, dtype=torch.float64)
