"""Ends of the schedules, where little or nothing of the signal is left."""

import pytest
import torch

from soda_fast.config.rules import MOST_INVERTED_STEPS
from soda_fast.diffusion import NoiseSchedule


@pytest.mark.parametrize("steps", [4000, 10_000, 40_000])
def test_betas_of_the_inverted_schedule_never_fall_again(steps: int) -> None:
    """Its curve crosses 0 at u = cos(0.008 pi / 2.016)^2; betas from there on are the clip, 0.999."""
    betas = NoiseSchedule("inverted", steps).betas(steps)
    late = betas[steps // 2 :]
    assert bool((late.diff() >= 0).all())
    crossing = torch.cos(torch.tensor(0.008 * torch.pi / 2.016, dtype=torch.float64)) ** 2
    clipped = betas[int(crossing * steps) :]
    assert torch.equal(clipped, torch.full_like(clipped, 0.999))


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule("inverted", MOST_INVERTED_STEPS),
        NoiseSchedule("cosine", 1_000_000),
        NoiseSchedule("linear", 8000),
    ],
    ids=lambda schedule: str(schedule.name),
)
def test_the_most_that_is_allowed_leaves_a_normal_number(schedule: NoiseSchedule) -> None:
    least = torch.finfo(torch.float32).tiny
    for alphabar in (schedule.training_alphabar(), schedule.sampling_alphabar()):
        assert alphabar[-1] >= least


@pytest.mark.parametrize("schedule", [NoiseSchedule("inverted", 71_000), NoiseSchedule("linear", beta_end=0.2)])
def test_what_is_refused_does_not(schedule: NoiseSchedule) -> None:
    assert schedule.training_alphabar()[-1] < torch.finfo(torch.float32).tiny
