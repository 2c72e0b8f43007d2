"""Moving about in the space of z: between two, along principal directions, section by section."""

from dataclasses import dataclass

import torch
from torch import Tensor

from soda_fast.sections import section_bounds


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """From z (1, D) to z (1, D) along the great circle of their directions, lengths mixed linearly: (K, D).

    share: (K, 1) in [0, 1].
    """
    directions = [torch.nn.functional.normalize(z, dim=1) for z in (start, end)]
    angle = torch.arccos((directions[0] * directions[1]).sum().clamp(-1 + 1e-6, 1 - 1e-6))
    along = (torch.sin((1 - share) * angle) * directions[0] + torch.sin(share * angle) * directions[1]) / angle.sin()
    return along * ((1 - share) * start.norm() + share * end.norm())


def mix_sections(coarse: Tensor, fine: Tensor, count: int) -> Tensor:
    """z (N, D) with the `fine_sections(count)` finest of its `count` sections from `fine`, the others from `coarse`.

    coarse, fine: (N, D). Sections count from the finest resolution (soda_fast/sections.py).
    """
    bound = section_bounds(coarse.shape[1], count)[fine_sections(count)]
    return torch.cat((fine[:, :bound], coarse[:, bound:]), dim=1)


def fine_sections(count: int) -> int:
    """How many of z's sections are fine: half of them; of an odd number, the one in between is coarse."""
    return count // 2


@dataclass(frozen=True)
class Directions:
    """Principal directions of z, those of largest variance first.

    vectors: (K, D) float32, of length 1, the largest entry of each positive. deviations: (K,) float32, along them.
    shares: (K,) of the whole variance.
    """

    vectors: Tensor
    deviations: Tensor
    shares: Tensor


def principal_directions(z: Tensor, count: int) -> Directions:
    """Of the rows of z (N, D), N > 1; in float64 on the CPU. At most N - 1 and D of them.

    A direction is known up to its sign, and pictures should not depend on the one that a library happens to choose.
    """
    centred = z.double().cpu()
    centred = centred - centred.mean(dim=0)
    _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
    variances = singular.square() / (len(z) - 1)
    count = min(count, len(z) - 1, z.shape[1])
    kept = vectors[:count]
    largest = kept.gather(1, kept.abs().argmax(dim=1, keepdim=True))
    shares = variances / variances.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return Directions(
        (kept * largest.sign()).float().to(z.device),
        variances[:count].sqrt().float().to(z.device),
        shares[:count].float().to(z.device),
    )
