"""The Frechet distance against closed forms and SciPy's matrix root."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from soda_fast.evaluation import frechet_distance


def features(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + torch.randn(width, generator=generator)


def test_against_the_root_of_the_product() -> None:
    x, y = features(60, 5, 0), features(40, 5, 1)
    a, b = x.double().numpy(), y.double().numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_what_is_known_of_it() -> None:
    x = features(50, 6, 2)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    # Moved: the square of the way. Twice as wide about the same mean: tr(C) (1 - 2)^2.
    assert frechet_distance(x, x + 3) == pytest.approx(6 * 9, rel=1e-5)
    wide = 2 * (x - x.mean(0)) + x.mean(0)
    assert frechet_distance(x, wide) == pytest.approx(x.double().var(0).sum().item(), rel=1e-5)


def test_fewer_images_than_dimensions() -> None:
    """Covariances without an inverse: no NaN, and 0 for equal sets."""
    x = features(8, 30, 3)
    assert frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, features(8, 30, 4)) > 1


def test_mistakes_are_named() -> None:
    for other in (torch.rand(5, 3), torch.rand(1, 4), torch.rand(5)):
        with pytest.raises(ValueError, match="two rows or more"):
            frechet_distance(torch.rand(5, 4), other)
