"""Guidance, whole and by section, against its equations."""

import pytest
import torch
from torch import Tensor

from soda_fast.diffusion.guidance import guidance_terms, guided_prediction

SECTIONS = 4


def denoise(x: Tensor, t: Tensor, z: Tensor, drop_mask: Tensor) -> Tensor:
    """Depends on the sections of z that are not withheld, and not linearly: z (N, 4), an element a section."""
    mask = drop_mask if drop_mask.ndim == 2 else drop_mask[:, None]
    kept = z * (1 - mask)
    return x * kept.sum(dim=1).sin().view(-1, 1, 1, 1) + kept.prod(dim=1).view(-1, 1, 1, 1)


def told(x: Tensor, z: Tensor, coarsest: int) -> Tensor:
    """The prediction from the `coarsest` last sections of z."""
    mask = torch.ones(len(x), SECTIONS)
    mask[:, SECTIONS - coarsest :] = 0
    return denoise(x, torch.zeros(0), z, mask)


def case() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 3, 2, 2), torch.randn(3, SECTIONS)


def test_one_weight_is_classifier_free_guidance() -> None:
    x, z = case()
    expected = 1.7 * told(x, z, SECTIONS) - 0.7 * told(x, z, 0)
    torch.testing.assert_close(guided_prediction(denoise, x, 5, z, 0.7), expected)


def test_equal_weights_of_sections_are_that_too_at_the_same_cost() -> None:
    x, z = case()
    torch.testing.assert_close(
        guided_prediction(denoise, x, 5, z, [0.7] * SECTIONS), guided_prediction(denoise, x, 5, z, 0.7)
    )
    assert len(guidance_terms([0.7] * SECTIONS)) == 2
    assert len(guidance_terms([0.0] * SECTIONS)) == len(guidance_terms(0.0)) == 1
    assert len(guidance_terms([0.7, 0.7, 0.1, 0.1])) == 3


def test_weights_of_sections_raise_each_factor_to_its_own_power() -> None:
    """e_0 + sum of (1 + w_k) (e_k - e_(k-1)), the coarsest section first: weights are given the finest first."""
    x, z = case()
    weights = [0.5, 0.0, 2.0, 1.0]
    expected = told(x, z, 0)
    for k, w in enumerate(reversed(weights), start=1):
        expected = expected + (1 + w) * (told(x, z, k) - told(x, z, k - 1))
    torch.testing.assert_close(guided_prediction(denoise, x, 5, z, weights), expected)


@pytest.mark.parametrize("guidance", [0.0, 0.3, [0.1, 0.4, 0.0, 2.0]])
def test_the_terms_sum_to_one(guidance: float | list[float]) -> None:
    """So guidance commutes with the conversion between predictions, which is affine."""
    assert sum(weight for weight, _ in guidance_terms(guidance)) == pytest.approx(1)


def test_without_guidance_the_prediction_is_untouched() -> None:
    x, z = case()
    assert torch.equal(guided_prediction(denoise, x, 5, z, 0.0), told(x, z, SECTIONS))
