"""Predictions and loss weights against their equations in float64."""

import pytest
import torch

from soda_fast.diffusion import NoiseSchedule, Noising, denoising_loss, expected_prediction, loss_weights
from soda_fast.diffusion.objective import predicted_x_0

PREDICTIONS = ["noise", "x_0", "v"]


def case() -> tuple[torch.Tensor, ...]:
    """target, noise, alphabar_t, x_t in float64."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    alphabar = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.001], dtype=torch.float64)
    signal = alphabar.view(-1, 1, 1, 1)
    return target, noise, alphabar, signal.sqrt() * (2 * target - 1) + (1 - signal).sqrt() * noise


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x_0_comes_back_from_a_decoder_without_error(prediction: str) -> None:
    target, noise, alphabar, x_t = case()
    expected = expected_prediction(prediction, target, noise, alphabar)
    torch.testing.assert_close(predicted_x_0(prediction, expected, x_t, alphabar.view(-1, 1, 1, 1)), 2 * target - 1)


def test_v_is_the_derivative_of_x_t_by_its_angle() -> None:
    """x = cos(angle) x_0 + sin(angle) noise; v = dx / d angle (arXiv 2202.00512, section 4)."""
    target, noise, alphabar, _ = case()
    angle = torch.arccos(alphabar.sqrt()).view(-1, 1, 1, 1)

    def x(at: torch.Tensor) -> torch.Tensor:
        return at.cos() * (2 * target - 1) + at.sin() * noise

    derivative = (x(angle + 1e-6) - x(angle - 1e-6)) / 2e-6
    torch.testing.assert_close(expected_prediction("v", target, noise, alphabar), derivative, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_is_one_weight_on_the_error_of_x_0(prediction: str) -> None:
    """However the error is measured, weight times error is min(SNR, gamma) times the error of x_0."""
    alphabar = NoiseSchedule("cosine", 50).training_alphabar()
    weights = loss_weights("min-snr", prediction, alphabar, gamma=5.0)
    assert weights is not None
    target, noise, _, _ = case()
    for t in (1, 5, 20, 49):
        signal = alphabar[t].double()
        x_t = signal.sqrt() * (2 * target - 1) + (1 - signal).sqrt() * noise
        right = expected_prediction(prediction, target, noise, signal.expand(5))
        wrong = right + torch.randn(right.shape, dtype=torch.float64)
        error = (wrong - right).square().mean()
        error_of_x_0 = (predicted_x_0(prediction, wrong, x_t, signal) - (2 * target - 1)).square().mean()
        snr = signal / (1 - signal)
        torch.testing.assert_close(weights[t].double() * error, min(snr, 5.0) * error_of_x_0, rtol=1e-4, atol=0.0)


def test_noise_alone_counts_fully_where_no_signal_is_left() -> None:
    alphabar = torch.tensor([1.0, 0.5, 0.0])
    found = {name: loss_weights("min-snr", name, alphabar) for name in PREDICTIONS}
    expected = {"noise": [0.0, 1.0, 1.0], "x_0": [5.0, 1.0, 0.0], "v": [0.0, 0.5, 0.0]}
    assert {name: None if some is None else some.tolist() for name, some in found.items()} == expected


def test_uniform_is_the_plain_error() -> None:
    assert loss_weights("uniform", "v", NoiseSchedule("cosine", 50).training_alphabar()) is None


def test_the_loss_weighs_each_sample_by_its_timestep() -> None:
    target, noise, _, _ = (value.float() for value in case())
    t = torch.tensor([1, 2, 3, 2, 1])
    noising = Noising(t, noise, torch.zeros(5), torch.arange(5))
    predicted = torch.randn(5, 3, 4, 4)
    weights = torch.tensor([9.0, 0.5, 2.0, 0.0])
    found = denoising_loss(lambda *_: predicted, target, target, noising, expected=target, weights=weights)
    torch.testing.assert_close(found, weights[t] * (predicted - target).square().mean(dim=(1, 2, 3)))
