"""The training loss. Everything random in it belongs to a sample's position in the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from soda_fast import counter_rng


@dataclass(frozen=True)
class Noising:
    """What a training step draws for each sample.

    t: (N,) int64 from 1 to T. noise: (N, 3, T, T) float32, standard normal. drop_mask: (N,) float32, 1 = without z; or
    (N, S), 1 = without that section of z. dropout_seeds: (N,) int64.
    """

    t: Tensor
    noise: Tensor
    drop_mask: Tensor
    dropout_seeds: Tensor


def draw_noising(
    seed: int,
    positions: Tensor,
    image_shape: tuple[int, ...],
    timesteps: tuple[int, int],
    drop_probability: float,
    section_drops: Sequence[float] = (),
) -> Noising:
    """What is drawn for the samples at `positions` (N,) int64, on their device.

    timesteps: the first and the last of those that are drawn, each as often. drop_probability: of all of z.
    section_drops: of each section of z, beside that and independently (SODA's layer masking); none: z is dropped as a
    whole only.
    """
    low, high = counter_rng.bits(seed, "dropout", positions, 2).unbind(dim=1)
    return Noising(
        t=counter_rng.integers(seed, "timestep", positions, timesteps[0], timesteps[1] + 1),
        noise=counter_rng.normal(seed, "noise", positions, image_shape),
        drop_mask=_draw_drops(seed, positions, drop_probability, section_drops).float(),
        dropout_seeds=low | (high << 32),
    )


def _draw_drops(seed: int, positions: Tensor, drop_probability: float, section_drops: Sequence[float]) -> Tensor:
    whole = counter_rng.uniform(seed, "drop", positions, 1) < drop_probability
    if not section_drops:
        return whole[:, 0]
    drawn = counter_rng.uniform(seed, "drop/sections", positions, len(section_drops))
    # Column by column: a tensor of the probabilities would have to be sent to the device in each step.
    single = [drawn[:, section] < probability for section, probability in enumerate(section_drops)]
    return whole | torch.stack(single, dim=1)


def add_noise(target: Tensor, noising: Noising, alphabar: Tensor) -> Tensor:
    """x_t = sqrt(alphabar_t) x_0 + sqrt(1 - alphabar_t) noise (DDPM, equation 4), with x_0 = 2 target - 1.

    target: (N, 3, T, T) in [0, 1]; alphabar: (T + 1,) float32.
    """
    alphabar_t = alphabar[noising.t][:, None, None, None]
    return alphabar_t.sqrt() * (2 * target - 1) + (1 - alphabar_t).sqrt() * noising.noise


def noise_images(
    target: Tensor,
    positions: Tensor,
    alphabar: Tensor,
    seed: int,
    timesteps: tuple[int, int],
    drop_probability: float,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    section_drops: Sequence[float] = (),
) -> tuple[Tensor, Noising]:
    """x_t (N, 3, T, T) in `dtype` and `memory_format`, and what was drawn for it, the noise in that layout too."""
    noising = draw_noising(seed, positions, tuple(target.shape[1:]), timesteps, drop_probability, section_drops)
    # In the prediction's layout too, which it will be subtracted from.
    noising = replace(noising, noise=noising.noise.contiguous(memory_format=memory_format))
    x_t = add_noise(target, noising, alphabar).to(dtype).contiguous(memory_format=memory_format)
    return x_t, noising


def denoising_loss(
    predict: Callable[..., Tensor],
    source: Tensor,
    x_t: Tensor,
    noising: Noising,
    expected: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the prediction, for each target (DDPM, equation 14; SODA, section 3.1).

    Args:
        predict: (source, x_t, t, drop_mask, dropout_seeds) -> prediction (N, 3, T, T).
        source: (N, 3, S, S), normalised; or N / K rows, each for K targets that are next to each other.
        x_t: (N, 3, T, T), from `add_noise`.
        noising: what was drawn.
        expected: (N, 3, T, T), from `expected_prediction`, in x_t's layout; None: the noise.
        weights: (T + 1,) of the timesteps, from `loss_weights`; None: 1.

    Returns:
        (N,) float32; the caller reduces.
    """
    predicted = predict(source, x_t, noising.t, noising.drop_mask, noising.dropout_seeds)
    error = predicted.float() - (noising.noise if expected is None else expected)
    if error.is_contiguous(memory_format=torch.channels_last):
        # The gradient of a mean is laid out in the order of the axes: it would reach the last convolution as NCHW.
        error = error.permute(0, 2, 3, 1)
    losses = error.square().mean(dim=(1, 2, 3))
    return losses if weights is None else weights[noising.t] * losses
