"""SSIM against its equation, place by place, in float64."""

import math

import numpy as np
import pytest
import torch

from soda_fast.evaluation import ssim


def by_the_equation(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, with the weighted moments of section III.B at each place of the window."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for channel in range(x.shape[0]):
        for top in range(x.shape[1] - 10):
            for left in range(x.shape[2] - 10):
                a, b = (image[channel, top : top + 11, left : left + 11] for image in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = 0.01**2, 0.03**2
                values.append(
                    (2 * mean_a * mean_b + c1)
                    * (2 * covariance + c2)
                    / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
                )
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width"), [(11, 11), (13, 16)])
def test_ssim_is_its_equation(height: int, width: int) -> None:
    x = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    y = (x + 0.3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    expected = [by_the_equation(a, b) for a, b in zip(x.double().numpy(), y.double().numpy())]
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-12)
    assert ssim(x, x).tolist() == pytest.approx([1, 1, 1])


def test_grey_images() -> None:
    """Without structure the luminance alone is left: (2 a b + c1) / (a^2 + b^2 + c1)."""
    x, y = torch.full((1, 3, 20, 20), 0.25), torch.full((1, 3, 20, 20), 0.75)
    assert ssim(x, y).item() == pytest.approx((2 * 0.1875 + 1e-4) / (0.0625 + 0.5625 + 1e-4), abs=1e-9)
    assert not math.isnan(ssim(x * 0, x * 0).item())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="give two equal"):
        ssim(torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="images of 8x16 pixels: SSIM's window has 11x11"):
        ssim(torch.rand(2, 3, 8, 16), torch.rand(2, 3, 8, 16))
