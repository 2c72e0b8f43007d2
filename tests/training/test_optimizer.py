"""Learning rates, clipping, and steps that must not be taken."""

import pytest
import torch
from torch import nn

from soda_fast.training.clock import Clock, SaveTimer
from soda_fast.training.finite import FiniteGuard, NonFiniteError
from soda_fast.training.optimizer import ShardedAdamW, clip_and_step, learning_rate


def test_learning_rate_is_linear_then_constant() -> None:
    rates = [learning_rate(1.0, images, 10, 40) for images in range(0, 70, 10)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    assert learning_rate(0.5, 0, 10, 0) == 0.5


def model_and_optimizer() -> tuple[nn.Linear, ShardedAdamW]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, ShardedAdamW(model.parameters(), lr=0.1, fused=True)


def test_clips_to_the_whole_norm() -> None:
    model, optimizer = model_and_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm, _ = clip_and_step(optimizer, 1.0, FiniteGuard(torch.device("cpu"), allowed=0), 0)
    assert norm.item() == pytest.approx(8**0.5)
    clipped = optimizer.state[model.weight]["exp_avg"] / 0.1
    torch.testing.assert_close(clipped, torch.full_like(clipped, 8**-0.5), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_changes_nothing_and_stops_the_run(bad: float) -> None:
    model, optimizer = model_and_optimizer()
    guard = FiniteGuard(torch.device("cpu"), allowed=0)
    for step in range(4):
        before = model.weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if step >= 2:
            model.weight.grad[0, 0] = bad
        clip_and_step(optimizer, 1.0, guard, images_seen=step)
        assert torch.equal(model.weight, before) == (step >= 2)
        if step < 2:
            guard.check()
    with pytest.raises(NonFiniteError, match="after 2 images"):
        guard.check()


def test_clock_tells_training_from_waiting_and_pauses() -> None:
    now = 0.0

    def tick(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = Clock(lambda: now)
    with clock.waiting_for_data():
        tick(1.0)
    tick(3.0)
    with clock.paused():
        tick(100.0)
    pace = clock.lap(images=8)
    assert pace.images_per_second == pytest.approx(2.0)
    assert pace.data_wait_share == pytest.approx(0.25)
    tick(2.0)
    assert clock.lap(images=8).images_per_second == pytest.approx(4.0)


def test_a_save_is_due_after_its_interval() -> None:
    now = 0.0
    timer, never = SaveTimer(600, lambda: now), SaveTimer(None, lambda: now)
    assert not timer.is_due()
    now = 600.0
    assert timer.is_due()
    assert not never.is_due()
    timer.restart()
    now = 1199.0
    assert not timer.is_due()
