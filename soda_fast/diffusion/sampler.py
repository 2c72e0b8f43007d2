"""DDIM (Song et al., arXiv 2010.02502) with classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def sampling_times(total_steps: int, steps: int) -> list[int]:
    """The timesteps that DDIM visits, falling, then 0: 1, 1 + s, 1 + 2s, .. reversed, with s = total_steps // steps.

    Where `steps` does not divide total_steps, more are visited than asked for, as in the reference implementation.
    """
    return [*reversed(range(1, total_steps + 1, total_steps // steps)), 0]


@torch.no_grad()
def ddim_sample(
    denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    alphabar: Tensor,
    z: Tensor,
    x_T: Tensor,
    steps: int = 100,
    guidance: float = 0.3,
) -> Tensor:
    """Images from z, deterministic in the starting noise (eta = 0).

    Args:
        denoise: (x_t, t, z, drop_mask) -> predicted noise, as `SODA.denoise`.
        alphabar: (T + 1,) float32, of `NoiseSchedule.sampling_alphabar`.
        z: (N, D).
        x_T: (N, 3, S, S), standard normal.
        steps: DDIM steps, at most T.
        guidance: w in (1 + w) * noise with z - w * noise without. 0 takes half the time.

    Returns:
        (N, 3, S, S) float32, images in [0, 1] but for the noise of alphabar[0], which can pass the ends by 0.02.

    Raises:
        ValueError: steps outside 1..T.
    """
    total_steps = len(alphabar) - 1
    if not 1 <= steps <= total_steps:
        raise ValueError(f"steps must be between 1 and the schedule's {total_steps}, got {steps}")
    alphabar = alphabar.to(x_T.device)
    times = sampling_times(total_steps, steps)
    x = x_T.float()
    for time, next_time in pairwise(times):
        noise = _guided_noise(denoise, x, time, z, guidance)
        signal, next_signal = alphabar[time], alphabar[next_time]
        x_0 = ((x - (1 - signal).sqrt() * noise) / signal.sqrt()).clamp(-1, 1)
        noise = (x - signal.sqrt() * x_0) / (1 - signal).sqrt()
        x = next_signal.sqrt() * x_0 + (1 - next_signal).sqrt() * noise
    return (x + 1) / 2


def _guided_noise(
    denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], x: Tensor, time: int, z: Tensor, guidance: float
) -> Tensor:
    """Classifier-free guidance; conditional and unconditional samples share one batch."""
    n = len(x)
    if guidance == 0:
        drop_mask, t = torch.zeros(n, device=x.device), torch.full((n,), time, device=x.device)
        return denoise(x, t, z, drop_mask).float()
    drop_mask = torch.cat((torch.zeros(n), torch.ones(n))).to(x.device)
    t = torch.full((2 * n,), time, device=x.device)
    conditional, unconditional = denoise(x.repeat(2, 1, 1, 1), t, z.repeat(2, 1), drop_mask).float().chunk(2)
    return (1 + guidance) * conditional - guidance * unconditional
