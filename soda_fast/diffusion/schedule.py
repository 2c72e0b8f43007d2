"""Noise schedules: alphabar[t], the share of the signal's variance left at timestep t."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_OFFSET = 0.008  # s of the cosine schedules
_BETA_MAX = 0.999
_TINY = torch.finfo(torch.float64).tiny


def linear_betas(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """(steps,) float64: DDPM, arXiv 2006.11239, section 4."""
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)


def cosine_betas(steps: int) -> Tensor:
    """(steps,) float64: improved DDPM, arXiv 2102.09672, equation 17."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    return _betas_of(torch.cos((u + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2)


def inverted_betas(steps: int) -> Tensor:
    """(steps,) float64: SODA, section 3.2: the cosine schedule with its axes exchanged, which spends more timesteps at
    medium noise."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    return _betas_of(2 * (1 + _OFFSET) / math.pi * torch.arccos(torch.sqrt(u)) - _OFFSET)


def _betas_of(alphabar: Tensor) -> Tensor:
    """The betas whose products give alphabar / alphabar[0], at most 0.999 (and not negative).

    With about 10,000 timesteps the inverted schedule's curve falls below 0 before its end: from there on all are 0.999.
    """
    before, after = alphabar[:-1].clamp(min=_TINY), alphabar[1:].clamp(min=0)
    return (1 - after / before).clamp(0, _BETA_MAX)


@dataclass(frozen=True)
class NoiseSchedule:
    """A schedule of T = `steps` timesteps.

    name: "linear", "cosine" or "inverted"; the betas of "linear" run from beta_start to beta_end.
    """

    name: str = "linear"
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def betas(self, steps: int) -> Tensor:
        """(steps,) float64."""
        if self.name == "linear":
            return linear_betas(steps, self.beta_start, self.beta_end)
        return {"cosine": cosine_betas, "inverted": inverted_betas}[self.name](steps)

    def training_alphabar(self) -> Tensor:
        """(T + 1,) float32, indexed by t in 0..T; alphabar[0] = 1."""
        products = torch.cumprod(1 - self.betas(self.steps), dim=0)
        return torch.cat((torch.ones(1, dtype=torch.float64), products)).float()

    def sampling_alphabar(self) -> Tensor:
        """(T + 1,) float32, indexed by the sampler's t in 0..T.

        The reference implementation lets its sampler run on a schedule of T + 1 betas without a leading 1, so its last
        step leaves the little noise of the first beta.
        """
        return torch.cumprod(1 - self.betas(self.steps + 1), dim=0).float()
