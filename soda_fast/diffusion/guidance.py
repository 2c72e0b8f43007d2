"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), and its generalisation to sections of z (SODA, 3.2)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Guidance = float | Sequence[float]
"""Weight w of guidance; or one for each section of z, the finest resolution's first."""


def guidance_terms(guidance: Guidance) -> list[tuple[float, Tensor]]:
    """The guided prediction as a weighted sum of predictions under masks of z: (weight, mask) of each.

    One weight w: (1 + w) times the prediction with z, minus w times that without; mask 0-d.

    A weight for each section: with p(z | x) written as the product of p(z_k | x, coarser sections), each factor raised
    to its own power 1 + w_k, the prediction is e_0 + sum over k of (1 + w_k) (e_k - e_(k-1)), where e_k is told the k
    coarsest sections. Such predictions can be rarely trained: dropped each for itself with 0.1, of five sections the
    coarsest alone is told in 0.1^4 * 0.9 of the samples that keep z, one in 11,000.
    Equal weights give the equation above. Masks are (S,), 1 where a section is withheld; terms that equal weights
    cancel are left out.
    """
    if isinstance(guidance, int | float):
        terms = [(1 + guidance, torch.zeros(())), (-guidance, torch.ones(()))]
    else:
        coarse_first = list(reversed(guidance))
        count = len(coarse_first)
        # The sum again, sorted by prediction: e_k has the weight (1 + w_k) - (1 + w_(k+1)).
        factors = [1.0, *(1 + w for w in coarse_first), 0.0]
        withheld = torch.arange(count)
        terms = [
            (factors[told] - factors[told + 1], (withheld < count - told).float()) for told in range(count, -1, -1)
        ]
    return [(weight, mask) for weight, mask in terms if weight]


def guided_prediction(
    denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], x: Tensor, time: int, z: Tensor, guidance: Guidance
) -> Tensor:
    """The guided prediction (N, 3, S, S) float32 for x at one timestep; all its terms are computed as one batch.

    Guidance is affine with weights that sum to 1, so it is the same for predictions of noise, x_0 and v.
    """
    n, terms = len(x), guidance_terms(guidance)
    masks = torch.stack([mask for _, mask in terms]).to(x.device).repeat_interleave(n, dim=0)
    copies = len(terms)
    t = torch.full((copies * n,), time, device=x.device)
    predictions = denoise(x.repeat(copies, 1, 1, 1), t, z.repeat(copies, 1), masks).float().chunk(copies)
    # In place of a sum with 0 and products with 1: guidance 0 is the prediction itself, bit for bit.
    guided = predictions[0] if terms[0][0] == 1 else terms[0][0] * predictions[0]
    for (weight, _), prediction in zip(terms[1:], predictions[1:], strict=True):
        guided = guided + weight * prediction
    return guided
