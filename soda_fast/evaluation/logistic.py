"""Multinomial logistic regression by L-BFGS, several strengths of regularisation at once.

The objective is scikit-learn's and cuML's: C * sum of cross entropies + |W|^2 / 2, the bias free. It is minimised in
features of root mean square 1 with the penalty divided by the square of their size, which is the same problem: so what
the tolerance means does not depend on the encoder's scale. Logits are linear in the weights, so a line search costs no
product with the features: an iteration has two.
"""

import math

import torch
from torch import Tensor

from soda_fast.evaluation.numerics import full_precision

MAX_ITERATIONS, TOLERANCE = 1000, 1e-5
_HISTORY = 10
_MAX_HALVINGS = 30
_ARMIJO = 1e-4
_TOGETHER = 8  # strengths fitted at once: neighbours need about equally many iterations
_LOGITS_AT_ONCE = 2**27  # numbers: 1 GiB of float64


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: list[float],
    *,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Weights for each C, in float64.

    Args:
        features: (N, D) floating point.
        labels: (N,) int64 in 0..num_classes-1.
        num_classes: K.
        strengths: values of C, rising: each group starts from the solution of the one before.
        tolerance: stops where no entry of the gradient of the objective / (C N), by the weights of features of root
            mean square 1, is larger.

    Returns:
        (len(strengths), D + 1, K) float64; the last row is the bias.
    """
    ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
    x = torch.cat([features.double(), ones], dim=1)
    size = torch.linalg.vector_norm(features, dtype=torch.float64) / math.sqrt(features.numel())
    size = size.clamp_min(torch.finfo(torch.float32).tiny)
    x[:, :-1] /= size
    together = max(1, min(_TOGETHER, _LOGITS_AT_ONCE // (len(x) * num_classes)))
    start = torch.zeros(x.shape[1], 1, num_classes, dtype=torch.float64, device=x.device)
    fitted = []
    with torch.no_grad(), full_precision():
        for first in range(0, len(strengths), together):
            some = strengths[first : first + together]
            decay = 1 / (torch.tensor(some, dtype=torch.float64, device=x.device) * len(x) * size.square())
            weight = _minimise(x, labels, start.repeat(1, len(some), 1), decay, tolerance)
            fitted.append(weight.transpose(0, 1))
            start = weight[:, -1:].clone()
    weights = torch.cat(fitted)
    weights[:, :-1] /= size
    return weights


def logistic_accuracies(weights: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """(P,) float64 top-1 accuracy of (P, D + 1, K) weights on (M, D) features."""
    x = features.double()
    with full_precision():
        logits = (torch.addmm(weight[-1], x, weight[:-1]) for weight in weights)
        return torch.stack([(rows.argmax(dim=1) == labels).double().mean() for rows in logits])


def _minimise(x: Tensor, y: Tensor, weight: Tensor, decay: Tensor, tolerance: float) -> Tensor:
    """L-BFGS from `weight` (D + 1, P, K), P independent problems; step lengths by halving (Armijo).

    The objective is convex, so every step keeps the approximation of the curvature positive.
    """
    logits = _product(x, weight)
    value, gradient = _value(logits, y, weight, decay), _gradient(x, logits, y, weight, decay)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    done = torch.zeros_like(decay, dtype=torch.bool)
    for _ in range(MAX_ITERATIONS):
        done |= gradient.abs().amax(dim=(0, 2)) <= tolerance
        if bool(done.all()):
            break
        direction = -_curved(gradient, steps, changes)
        slope = _dot(direction, gradient)
        along = _product(x, direction)
        length, value_there = _step_length(logits, along, y, weight, direction, decay, value, slope, done)
        done |= length == 0  # no smaller value can be told apart in float64
        moved = length[None, :, None] * direction
        weight, logits = weight + moved, logits + length[None, :, None] * along
        gradient_there = _gradient(x, logits, y, weight, decay)
        steps, changes = [*steps[1 - _HISTORY :], moved], [*changes[1 - _HISTORY :], gradient_there - gradient]
        value, gradient = value_there, gradient_there
    return weight


def _curved(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The inverse curvature times the gradient: the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
    tiny = torch.finfo(torch.float64).tiny
    q, kept = gradient, []
    for s, c in zip(reversed(steps), reversed(changes), strict=True):
        curvature = _dot(s, c)
        inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(tiny), 0.0)
        share = inverse * _dot(s, q)
        q = q - share[None, :, None] * c
        kept.append((share, inverse, s, c))
    if steps:
        curvature, size = _dot(steps[-1], changes[-1]), _dot(changes[-1], changes[-1])
        q = q * torch.where(size > 0, curvature / size.clamp_min(tiny), 1.0).clamp_min(1e-12)[None, :, None]
    else:
        q = q / _dot(q, q).sqrt().clamp_min(1.0)[None, :, None]
    for share, inverse, s, c in reversed(kept):
        q = q + (share - inverse * _dot(c, q))[None, :, None] * s
    return q


def _step_length(
    logits: Tensor,
    along: Tensor,
    y: Tensor,
    weight: Tensor,
    direction: Tensor,
    decay: Tensor,
    value: Tensor,
    slope: Tensor,
    done: Tensor,
) -> tuple[Tensor, Tensor]:
    """(P,) lengths 1, 1/2, 1/4, ... that lower each value enough, and the values there; 0 where none does."""
    length = torch.ones_like(value)
    best, best_value = torch.zeros_like(value), value
    for _ in range(_MAX_HALVINGS):
        scaled = length[None, :, None]
        tried = _value(logits + scaled * along, y, weight + scaled * direction, decay)
        good = ~done & (best == 0) & (tried <= value + _ARMIJO * length * slope) & (tried < value)
        best, best_value = torch.where(good, length, best), torch.where(good, tried, best_value)
        if bool(((best > 0) | done).all()):
            break
        length = length / 2
    return best, best_value


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(N, P, K) = (N, D + 1) x (D + 1, P, K)."""
    return (x @ weight.flatten(1)).unflatten(1, weight.shape[1:])


def _value(logits: Tensor, y: Tensor, weight: Tensor, decay: Tensor) -> Tensor:
    """(P,): mean cross entropy + decay / 2 * |W|^2."""
    chosen = logits.gather(2, y[:, None, None].expand(-1, logits.shape[1], 1))[..., 0]
    loss = (torch.logsumexp(logits, dim=2) - chosen).mean(dim=0)
    return loss + decay / 2 * weight[:-1].square().sum(dim=(0, 2))


def _gradient(x: Tensor, logits: Tensor, y: Tensor, weight: Tensor, decay: Tensor) -> Tensor:
    residual = logits.softmax(dim=2)
    index = y[:, None, None].expand(-1, logits.shape[1], 1)
    residual.scatter_add_(2, index, torch.full_like(index, -1, dtype=residual.dtype))
    gradient = (x.T @ residual.flatten(1)).unflatten(1, weight.shape[1:]) / len(x)
    gradient[:-1] += decay[None, :, None] * weight[:-1]
    return gradient


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(P,) inner products of (D + 1, P, K) tensors, problem by problem."""
    return (a * b).sum(dim=(0, 2))
