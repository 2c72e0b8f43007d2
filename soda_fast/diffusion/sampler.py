"""From noise to images: DDIM (Song et al., arXiv 2010.02502) and DPM-Solver++ (Lu et al., arXiv 2211.01095)."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from soda_fast import counter_rng
from soda_fast.diffusion.guidance import Guidance, guided_prediction
from soda_fast.diffusion.objective import predicted_x_0

Denoise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x_t, t, z, drop_mask) -> prediction, as `SODA.denoise`."""


def sampling_times(total_steps: int, steps: int) -> list[int]:
    """The timesteps that DDIM visits, falling, then 0: 1, 1 + s, 1 + 2s, .. reversed, with s = total_steps // steps.

    Where `steps` does not divide total_steps, more are visited than asked for, as in the reference implementation.
    """
    return [*reversed(range(1, total_steps + 1, total_steps // steps)), 0]


@torch.no_grad()
def ddim_sample(
    denoise: Denoise,
    alphabar: Tensor,
    z: Tensor,
    x_T: Tensor,
    steps: int = 100,
    guidance: Guidance = 0.3,
    prediction: str = "noise",
    eta: float = 0.0,
    seed: int = 0,
    rows: Tensor | None = None,
    clip: bool = True,
) -> Tensor:
    """Images from z, as the reference implementation makes them; deterministic in the starting noise if eta = 0.

    With `sampling_alphabar` the result still has the noise of its first level: it is distributed as
    sqrt(alphabar[0]) x_0 + sqrt(1 - alphabar[0]) noise, the more exactly the more steps. Of the linear schedule that is
    1e-4 of the variance, of the inverted one 0.02, a deviation of 18 grey levels. With `training_alphabar`, whose
    alphabar[0] is 1, the end is that of `dpm_solver_sample`. This holds of what lies in [-1, 1], or without `clip`.

    Args:
        denoise: the model.
        alphabar: (T + 1,) float32, of `NoiseSchedule.sampling_alphabar`.
        z: (N, D).
        x_T: (N, 3, S, S), standard normal.
        steps: DDIM steps, at most T.
        guidance: w in (1 + w) * prediction with z - w * prediction without; or one for each section of z. 0 takes half
            the time.
        prediction: what `denoise` returns: "noise", "x_0" or "v".
        eta: share of fresh noise in each step (DDIM, equation 16): 0 none, 1 as in DDPM.
        seed: of that noise, which is a function of it, the timestep and the sample's row.
        rows: (N,) int64, the samples' numbers; None: 0, 1, ...
        clip: keep each step's x_0 in [-1, 1], the range of images, as the reference does.

    Returns:
        (N, 3, S, S) float32, images in [0, 1] but for the noise of alphabar[0], which can pass the ends.

    Raises:
        ValueError: steps outside 1..T.
    """
    total_steps = _checked_total(alphabar, steps)
    alphabar = alphabar.to(x_T.device)
    rows = torch.arange(len(x_T)) if rows is None else rows
    x = x_T.float()
    for time, next_time in pairwise(sampling_times(total_steps, steps)):
        signal, next_signal = alphabar[time], alphabar[next_time]
        x_0 = _guided_x_0(denoise, x, time, z, guidance, prediction, signal, clip)
        noise = (x - signal.sqrt() * x_0) / (1 - signal).sqrt()
        fresh = eta * ((1 - next_signal) / (1 - signal) * (1 - signal / next_signal)).sqrt()
        x = next_signal.sqrt() * x_0 + (1 - next_signal - fresh.square()).sqrt() * noise
        if eta:
            drawn = counter_rng.normal(seed, f"ddim/{time}", rows.to(x.device), tuple(x.shape[1:]))
            x = x + fresh * drawn
    return (x + 1) / 2


def solver_times(log_snr: Tensor, steps: int) -> list[int]:
    """The `steps` timesteps that DPM-Solver++ visits, falling from T to 1.

    They are equal in the mean of two coordinates, each scaled to 0..1: log(alpha_t / sigma_t), in which the solver's
    error is smooth, and sqrt(t) (as DDIM's for CIFAR-10, appendix D.2). By the first alone too few are left for little
    noise; by the second alone the cosine and the inverted schedule lose what is common to many pixels, as brightness,
    which is decided in their last few timesteps. Where those are too coarse the next free one is taken.

    Args:
        log_snr: (T + 1,) float64.
    """
    total = len(log_snr) - 1
    if steps == 1:
        return [total]
    t = torch.arange(total, 0, -1, dtype=torch.float64)
    coordinate = _scaled(log_snr[1:].flip(0)) - _scaled(t.sqrt())  # grows from 0 at T to 2 at 1
    wanted = torch.linspace(0, 2, steps, dtype=torch.float64)
    after = torch.searchsorted(coordinate, wanted).clamp(1, total - 1)
    share = (wanted - coordinate[after - 1]) / (coordinate[after] - coordinate[after - 1])
    times = [total]
    for number, time in enumerate((t[after - 1] - share).tolist()[1:], start=1):
        times.append(max(min(round(time), times[-1] - 1), steps - number))
    return times


@torch.no_grad()
def dpm_solver_sample(
    denoise: Denoise,
    alphabar: Tensor,
    z: Tensor,
    x_T: Tensor,
    steps: int = 20,
    guidance: Guidance = 0.3,
    prediction: str = "noise",
    clip: bool = True,
) -> Tensor:
    """Images from z by DPM-Solver++ of second order, with several steps (2M, algorithm 2); deterministic in x_T.

    The timesteps are those of `solver_times`. The first step has none before it that would make it of second order; on
    the inverted schedule it is the longest, and no timestep lies within it. So it is made once more with the x_0 that
    it led to, linear in log-SNR in between, without another call of the model (the corrector of UniPC, Zhao et al.,
    arXiv 2302.04867, of that step alone).

    x at t = 1 is distributed as sqrt(alphabar[1]) x_0 + sqrt(1 - alphabar[1]) noise, the more exactly the more steps;
    but for what the first timesteps of the schedule are too coarse for (inverted, T = 1000: of a direction in which
    images vary by 10, as brightness in 16x16 pixels may, 92 % of the deviation comes back, by 0.5 all of it).
    No network has seen less noise than that, so there is nothing more to solve: the result is the model's x_0 at t = 1,
    E[x_0 | x_1]. Of a Gaussian that is a Gaussian of the same mean; of a direction's variance s^2 it keeps the share
    s^2 / (s^2 + u), u = (1 - alphabar[1]) / alphabar[1]. u is 1e-4 for the linear schedule, 4e-5 for cosine: nothing is
    lost. It is 0.02 for the inverted one with T = 1000, which smooths away what varies by less than 18 grey levels, and
    falls as 1 / sqrt(T). All this holds of what lies in [-1, 1], or without `clip`.

    Args:
        alphabar: (T + 1,) float32, of `NoiseSchedule.training_alphabar`.
        steps: calls of the model, at most T.

    The rest, the result and the errors as for `ddim_sample`; images lie in [0, 1] if clipped.
    """
    _checked_total(alphabar, steps)
    # In float64: the logarithms of ratios of small numbers; the images stay float32.
    alpha, sigma = alphabar.double().cpu().sqrt(), (1 - alphabar.double().cpu()).sqrt()
    log_snr = torch.log(alpha / sigma)

    def predict(x: Tensor, time: int) -> Tensor:
        return _guided_x_0(denoise, x, time, z, guidance, prediction, alphabar[time].to(x.device), clip)

    x, before, step_before = x_T.float(), torch.zeros_like(x_T), 0.0
    times = solver_times(log_snr, steps)
    x_0 = predict(x, times[0])
    for time, next_time in pairwise(times):
        step = float(log_snr[next_time] - log_snr[time])
        shrunk, gained = float(sigma[next_time] / sigma[time]) * x, -math.expm1(-step)
        share = step / (2 * step_before) if step_before else 0.0
        x = shrunk + float(alpha[next_time]) * gained * ((1 + share) * x_0 - share * before)
        before, x_0 = x_0, predict(x, next_time)
        if not step_before:
            of_start = (gained - step * math.exp(-step)) / step
            x = shrunk + float(alpha[next_time]) * (of_start * before + (gained - of_start) * x_0)
        step_before = step
    return (x_0 + 1) / 2


def _scaled(coordinate: Tensor) -> Tensor:
    """From 0 at its first entry, by the distance to its last: to 1, or to -1 where it falls."""
    return (coordinate - coordinate[0]) / (coordinate[-1] - coordinate[0]).abs()


def _checked_total(alphabar: Tensor, steps: int) -> int:
    total_steps = len(alphabar) - 1
    if not 1 <= steps <= total_steps:
        raise ValueError(f"steps must be between 1 and the schedule's {total_steps}, got {steps}")
    return total_steps


def _guided_x_0(
    denoise: Denoise, x: Tensor, time: int, z: Tensor, guidance: Guidance, prediction: str, signal: Tensor, clip: bool
) -> Tensor:
    """x_0 as guidance has it; clipped to [-1, 1], the range of images."""
    predicted = guided_prediction(denoise, x, time, z, guidance)
    x_0 = predicted_x_0(prediction, predicted, x, signal)
    return x_0.clamp(-1, 1) if clip else x_0
