"""What is drawn for a sample, eagerly and compiled."""

import torch

from soda_fast.diffusion import NoiseSchedule, noise_images


def test_compiled_noising_is_the_same() -> None:
    """Draws exactly; the noise, through logarithms and cosines, to a rounding."""
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    target, positions = torch.rand(6, 3, 8, 8), torch.arange(6) * 7 + 2**33
    arguments = (target, positions, alphabar, 3, 100, 0.5, torch.bfloat16, torch.channels_last)
    x_t, noising = noise_images(*arguments)
    compiled_x_t, compiled = torch.compile(noise_images, fullgraph=True, dynamic=False)(*arguments)
    for name in ("t", "drop_mask", "dropout_seeds"):
        assert torch.equal(getattr(compiled, name), getattr(noising, name)), name
    torch.testing.assert_close(compiled.noise, noising.noise, atol=2e-6, rtol=2e-6)
    assert compiled_x_t.dtype == torch.bfloat16
    assert compiled_x_t.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(compiled_x_t, x_t, atol=2**-6, rtol=2**-7)


def test_samples_have_seeds_of_their_own_wherever_they_come() -> None:
    alphabar = NoiseSchedule("linear", 100, 1e-4, 0.02).training_alphabar()
    _, whole = noise_images(torch.rand(6, 3, 4, 4), torch.arange(6), alphabar, 3, 100, 0.5)
    _, part = noise_images(torch.rand(2, 3, 4, 4), torch.tensor([1, 4]), alphabar, 3, 100, 0.5)
    assert torch.equal(part.dropout_seeds, whole.dropout_seeds[[1, 4]])
    assert torch.equal(part.t, whole.t[[1, 4]])
    assert len(whole.dropout_seeds.unique()) == 6
