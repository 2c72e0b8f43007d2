"""What is drawn for a sample."""

import torch

from soda_fast.diffusion import NoiseSchedule, noise_images


def test_x_t_has_the_type_and_layout_asked_for() -> None:
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    arguments = (torch.rand(6, 3, 8, 8), torch.arange(6), alphabar, 3, 100, 0.5)
    x_t, noising = noise_images(*arguments)
    narrow, same = noise_images(*arguments, torch.bfloat16, torch.channels_last)
    assert narrow.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(narrow, x_t.to(torch.bfloat16))
    assert torch.equal(same.noise, noising.noise)
    assert noising.noise.dtype == torch.float32


def test_samples_have_seeds_of_their_own_wherever_they_come() -> None:
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    _, whole = noise_images(torch.rand(6, 3, 4, 4), torch.arange(6), alphabar, 3, 100, 0.5)
    _, part = noise_images(torch.rand(2, 3, 4, 4), torch.tensor([1, 4]), alphabar, 3, 100, 0.5)
    assert torch.equal(part.dropout_seeds, whole.dropout_seeds[[1, 4]])
    assert torch.equal(part.t, whole.t[[1, 4]])
    assert len(whole.dropout_seeds.unique()) == 6
