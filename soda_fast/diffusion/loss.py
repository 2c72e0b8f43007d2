"""The training loss. Everything random in it belongs to a sample's position in the run."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from soda_fast import counter_rng


@dataclass(frozen=True)
class Noising:
    """What the forward process and the condition's dropping draw for each sample.

    t: (N,) int64 in 1..T. noise: (N, 3, T, T) float32, standard normal. drop_mask: (N,) float32, 1 = without z.
    """

    t: Tensor
    noise: Tensor
    drop_mask: Tensor


def draw_noising(
    seed: int, positions: Tensor, image_shape: tuple[int, ...], steps: int, drop_probability: float
) -> Noising:
    """Timestep, noise and dropped condition of the samples at `positions` (N,) int64, on their device."""
    dropped = counter_rng.uniform(seed, "drop", positions, 1)[:, 0] < drop_probability
    return Noising(
        t=counter_rng.integers(seed, "timestep", positions, 1, steps + 1),
        noise=counter_rng.normal(seed, "noise", positions, image_shape),
        drop_mask=dropped.float(),
    )


def add_noise(target: Tensor, noising: Noising, alphabar: Tensor) -> Tensor:
    """x_t = sqrt(alphabar_t) x_0 + sqrt(1 - alphabar_t) noise (DDPM, equation 4), with x_0 = 2 target - 1.

    target: (N, 3, T, T) in [0, 1]; alphabar: (T + 1,) float32.
    """
    alphabar_t = alphabar[noising.t][:, None, None, None]
    return alphabar_t.sqrt() * (2 * target - 1) + (1 - alphabar_t).sqrt() * noising.noise


def denoising_loss(predict: Callable[..., Tensor], source: Tensor, x_t: Tensor, noising: Noising) -> Tensor:
    """Mean squared error of the predicted noise, for each sample (DDPM, equation 14; SODA, section 3.1).

    Args:
        predict: (source, x_t, t, drop_mask) -> predicted noise (N, 3, T, T).
        source: (N, 3, S, S), normalised.
        x_t: (N, 3, T, T), from `add_noise`.
        noising: what was drawn.

    Returns:
        (N,) float32; the caller reduces.
    """
    predicted = predict(source, x_t, noising.t, noising.drop_mask)
    return (predicted.float() - noising.noise).square().mean(dim=(1, 2, 3))
