"""Power-function averages: exponents, decays and the least squares against their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from soda_fast.training.power_average import PowerAverages
from soda_fast.training.power_profile import combine, decay, exponent_of

LENGTHS = (0.03, 0.05, 0.1, 0.2, 0.28)


def profile(x: np.ndarray, exponent: float, end: float = 1.0) -> np.ndarray:
    """(gamma + 1) x ** gamma / end ** (gamma + 1), 0 after the end (section 3.1)."""
    return np.where(x <= end, (exponent + 1) * x**exponent / end ** (exponent + 1), 0.0)


@pytest.mark.parametrize("length", LENGTHS)
def test_an_exponent_has_its_length(length: float) -> None:
    gamma = exponent_of(length)
    assert gamma > 0
    assert math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2) == pytest.approx(length, rel=1e-12)
    # The deviation of the profile itself, by integration.
    x = (np.arange(1_000_000) + 0.5) / 1_000_000
    p = profile(x, gamma)
    mean = (p * x).mean()
    assert math.sqrt((p * (x - mean) ** 2).mean()) == pytest.approx(length, rel=1e-6)


def test_the_papers_exponents() -> None:
    assert exponent_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_decays_give_the_integral_of_the_profile_over_each_step() -> None:
    """The weight of step s after t steps is (s^(g+1) - (s-1)^(g+1)) / t^(g+1)."""
    gamma, t = exponent_of(0.1), 40
    assert decay(1, gamma) == 0
    assert decay(2, gamma) == 0.5 ** (gamma + 1)
    for s in range(1, t + 1):
        weight = (1 - decay(s, gamma)) * math.prod(decay(later, gamma) for later in range(s + 1, t + 1))
        assert weight == pytest.approx((s ** (gamma + 1) - (s - 1) ** (gamma + 1)) / t ** (gamma + 1), rel=1e-9)


@torch.no_grad()
def test_averages_of_a_scripted_training() -> None:
    """Parameters and BatchNorm's statistics, against the definition in float64: 1e-6 is 8 roundings of float32."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    averages = PowerAverages(online, LENGTHS)
    history: list[dict[str, torch.Tensor]] = []
    for step in range(1, 31):
        for parameter in online.parameters():
            parameter.add_(torch.randn_like(parameter))
        online(torch.randn(8, 3))
        averages.update(step)
        history.append({name: value.double() for name, value in online.state_dict().items()})
    for length in LENGTHS:
        power = exponent_of(length) + 1
        assert "1.running_var" in averages.by_length[length]
        assert "1.num_batches_tracked" not in averages.by_length[length]
        for name, value in averages.by_length[length].items():
            expected = sum(((s + 1) ** power - s**power) / 30**power * then[name] for s, then in enumerate(history))
            torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-6)


def test_without_lengths_there_is_nothing() -> None:
    averages = PowerAverages(nn.Linear(3, 4), ())
    averages.update(1)
    assert averages.tensors() == {}


def spaced(count: int, lengths: tuple[float, ...]) -> tuple[list[int], list[float]]:
    """Of snapshots at equal distances, one of each length at a time."""
    times = [100 * (i + 1) for i in range(count) for _ in lengths]
    return times, [exponent_of(length) for _ in range(count) for length in lengths]


@pytest.mark.parametrize("lengths", [(0.05, 0.1), (0.05,), (0.05, 0.1, 0.2)])
def test_errors_are_distances_between_profiles(lengths: tuple[float, ...]) -> None:
    times, exponents = spaced(16, lengths)
    wanted = [exponent_of(length) for length in (0.02, 0.07, 0.28)]
    coefficients, errors = combine(times, exponents, 1600, wanted)
    np.testing.assert_allclose(coefficients.sum(0), 1, atol=1e-10)
    x = (np.arange(160_000) + 0.5) / 160_000
    sources = np.stack([profile(x, gamma, time / 1600) for time, gamma in zip(times, exponents, strict=True)])
    for m, gamma in enumerate(wanted):
        target = profile(x, gamma)
        distance = np.sqrt(((coefficients[:, m] @ sources - target) ** 2).mean() / (target**2).mean())
        assert errors[m] == pytest.approx(distance, rel=1e-2, abs=1e-4)


def test_an_average_that_was_kept_is_found_again() -> None:
    times, exponents = spaced(32, (0.05, 0.1))
    coefficients, errors = combine(times, exponents, 3200, [exponent_of(0.1)])
    expected = np.zeros(64)
    expected[-1] = 1
    np.testing.assert_allclose(coefficients[:, 0], expected, atol=1e-10)
    assert errors[0] < 1e-7


def test_the_papers_pair_spans_the_lengths_between_and_around() -> None:
    """With the 32 snapshots that a run keeps; of a single length much less can be made."""
    wanted = [exponent_of(length) for length in (0.035, 0.05, 0.07, 0.1, 0.15, 0.2)]
    _, errors = combine(*spaced(32, (0.05, 0.1)), 3200, wanted)
    assert errors.max() < 0.01
    _, errors = combine(*spaced(32, (0.05, 0.1)), 3200, [exponent_of(0.02)])
    assert 0.01 < errors[0] < 0.04  # the README says so
    _, errors = combine(*spaced(4, (0.05,)), 400, [exponent_of(0.1)])
    assert errors[0] > 0.2
