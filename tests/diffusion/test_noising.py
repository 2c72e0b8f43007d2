"""What is drawn for a sample."""

from itertools import pairwise

import pytest
import torch

from soda_fast.config.model_schema import DiffusionConfig
from soda_fast.diffusion import NoiseSchedule, draw_noising, noise_images


def test_x_t_has_the_type_and_layout_asked_for() -> None:
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    arguments = (torch.rand(6, 3, 8, 8), torch.arange(6), alphabar, 3, (1, 100), 0.5)
    x_t, noising = noise_images(*arguments)
    narrow, same = noise_images(*arguments, torch.bfloat16, torch.channels_last)
    assert narrow.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(narrow, x_t.to(torch.bfloat16))
    assert torch.equal(same.noise, noising.noise)
    assert noising.noise.dtype == torch.float32


def test_samples_have_seeds_of_their_own_wherever_they_come() -> None:
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    _, whole = noise_images(torch.rand(6, 3, 4, 4), torch.arange(6), alphabar, 3, (1, 100), 0.5)
    _, part = noise_images(torch.rand(2, 3, 4, 4), torch.tensor([1, 4]), alphabar, 3, (1, 100), 0.5)
    assert torch.equal(part.dropout_seeds, whole.dropout_seeds[[1, 4]])
    assert torch.equal(part.t, whole.t[[1, 4]])
    assert len(whole.dropout_seeds.unique()) == 6


def test_sections_are_dropped_as_often_as_asked_each_for_itself_and_beside_the_whole() -> None:
    positions, drops = torch.arange(40_000), (0.0, 0.5, 0.2)
    mask = draw_noising(3, positions, (1, 1, 1), (1, 100), 0.1, drops).drop_mask
    whole = draw_noising(3, positions, (1, 1, 1), (1, 100), 0.1).drop_mask
    assert mask.shape == (40_000, 3)
    assert torch.equal(mask[:, 0], whole)  # never dropped for itself, only with the whole
    kept = mask[whole == 0]
    for section, probability in enumerate(drops):
        # Four deviations of a share of 36,000.
        assert (
            abs(kept[:, section].mean().item() - probability)
            < 4 * (probability * (1 - probability) / 36_000) ** 0.5 + 1e-9
        )
    both = (kept[:, 1] * kept[:, 2]).mean().item()
    assert both == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 36_000) ** 0.5)
    assert mask[whole == 1].all()


def test_the_masks_of_sections_belong_to_the_position() -> None:
    whole = draw_noising(3, torch.arange(9), (1, 1, 1), (1, 100), 0.1, (0.5, 0.5)).drop_mask
    part = draw_noising(3, torch.tensor([7, 2]), (1, 1, 1), (1, 100), 0.1, (0.5, 0.5)).drop_mask
    assert torch.equal(part, whole[[7, 2]])


@pytest.mark.parametrize(
    ("time_range", "first", "last"), [((0.0, 1.0), 1, 20), ((0.25, 0.5), 6, 10), ((0.29, 0.35), 7, 7)]
)
def test_the_timesteps_of_a_part_of_the_schedule_come_equally_often(
    time_range: tuple[float, float], first: int, last: int
) -> None:
    timesteps = DiffusionConfig(steps=20, time_range=time_range).trained_timesteps()
    counts = draw_noising(3, torch.arange(20_000), (1, 1, 1), timesteps, 0.1).t.bincount(minlength=21)
    assert counts[first : last + 1].sum() == 20_000
    expected = 20_000 / (last - first + 1)
    assert ((counts[first : last + 1] - expected).abs() <= 4.5 * expected**0.5).all()


def test_parts_of_a_schedule_that_meet_share_no_timestep() -> None:
    bounds = [0.0, 0.1, 0.29, 0.57, 1.0]
    parts = [DiffusionConfig(steps=37, time_range=pair).trained_timesteps() for pair in pairwise(bounds)]
    assert [t for first, last in parts for t in range(first, last + 1)] == list(range(1, 38))
