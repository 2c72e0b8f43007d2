"""The moving average, against its formula."""

import copy

import pytest
import torch
from torch import nn

from soda_fast.training.ema import WeightAverage


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def decay(step: int, beta: float) -> float:
    return min(beta, 1 - (1 + step) ** (-2 / 3))


def test_follows_the_formula_for_parameters_and_buffers() -> None:
    online = small()
    average = WeightAverage(online, small(), beta=0.6)
    expected: dict[str, torch.Tensor] = {}
    for step in range(6):
        with torch.no_grad():
            for parameter in online.parameters():
                parameter.add_(torch.randn_like(parameter))
        online(torch.randn(8, 3))  # moves BatchNorm's statistics
        average.update()
        for name, value in online.state_dict().items():
            if value.is_floating_point():
                weight = 0.0 if step == 0 else decay(step, 0.6)
                expected[name] = weight * expected.get(name, torch.zeros_like(value)) + (1 - weight) * value
    for name, value in expected.items():
        torch.testing.assert_close(average.model.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_continues_from_a_number_of_steps() -> None:
    online = small()
    whole = WeightAverage(online, small(), beta=0.9)
    for _ in range(3):
        whole.update()
    resumed = WeightAverage(online, copy.deepcopy(whole.model), beta=0.9, steps=3)
    with torch.no_grad():
        online[0].weight.add_(1.0)
    whole.update()
    resumed.update()
    assert torch.equal(whole.model.state_dict()["0.weight"], resumed.model.state_dict()["0.weight"])


def test_models_that_differ_are_refused() -> None:
    with pytest.raises(RuntimeError, match="same tensors"):
        WeightAverage(small(), nn.Sequential(nn.Linear(3, 4)), beta=0.9)
