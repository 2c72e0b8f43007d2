"""Many linear classifiers trained in step, as one: their products are one product.

S seeds, each with its own initial weights, members and orders, times R learning rates, which share all three. Each of
the S x R classifiers is what it would be if it were trained alone.
"""

import math

import torch
from torch import Tensor, nn

from soda_fast.evaluation.linear_recipe import Recipe
from soda_fast.evaluation.numerics import full_precision

_MOMENTUM = 0.9
_TRUST = 0.001
_ADAM = (0.9, 0.999, 1e-8)
_NORM_EPS, _NORM_MOMENTUM = 1e-6, 0.1
_ROWS_AT_ONCE = 8192


class LinearStack:
    """Classifiers in training, one pass at a time, so that many stacks can share the features of a pass.

    Initial weights and orders come from a generator for each seed: equal seeds give equal classifiers, whoever trains
    beside them, and the global random state is neither read nor moved.

    Args:
        recipe: how they are trained.
        members: (S, n) int64, the rows of the features that each seed trains on.
        width: of the features, D.
        num_classes: K.
        seeds: S of them.
    """

    def __init__(self, recipe: Recipe, members: Tensor, width: int, num_classes: int, seeds: tuple[int, ...]) -> None:
        self.recipe, self.members, self.num_classes = recipe, members, num_classes
        device, num_samples = members.device, members.shape[1]
        self.batch = recipe.batch_of(num_samples)
        self.steps_per_pass, self.total_steps = recipe.steps_per_pass(num_samples), recipe.total_steps(num_samples)
        self.step = 0
        # On the CPU whatever the device, so that weights and orders do not depend on it.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        initial = [_initial_linear(recipe, width, num_classes, generator) for generator in self._generators]
        rates = torch.tensor(recipe.rates(num_samples), device=device)
        # (1, 1, R * K): the learning rate of each column of logits.
        self._rates = rates.repeat_interleave(num_classes)[None, None]
        copies = (1, 1, len(rates))
        self.weight = torch.stack([weight.T for weight, _ in initial]).to(device).repeat(copies)
        self.bias = torch.stack([bias[None] for _, bias in initial]).to(device).repeat(copies)
        self.mean = torch.zeros(len(seeds), 1, width, device=device)
        self.variance = torch.ones(len(seeds), 1, width, device=device)
        self._state = [
            [torch.zeros_like(x) for _ in range(2 if recipe.optimizer == "adam" else 1)]
            for x in (self.weight, self.bias)
        ]

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    @torch.no_grad()
    def train_pass(self, features: Tensor, labels: Tensor) -> None:
        """One pass over the members among (N, D) features and (N,) int64 labels, each seed in a new random order.

        Stops within the pass when the last step is done; does nothing after it.
        """
        count = self.members.shape[1]
        orders = torch.stack([torch.randperm(count, generator=generator) for generator in self._generators])
        rows = self.members.gather(1, orders.to(features.device))
        with full_precision():
            for number in range(min(self.steps_per_pass, self.total_steps - self.step)):
                last = number == self.steps_per_pass - 1 and not self.recipe.drop_last
                end = count if last else (number + 1) * self.batch
                some = rows[:, number * self.batch : end]
                self._train_step(features[some].float(), labels[some])

    @torch.no_grad()
    def accuracies(self, features: Tensor, labels: Tensor) -> Tensor:
        """(S, R) float64: top-1 accuracy of each classifier on (M, D) features, or (S, M, D) with labels (S, M).

        NaN of a classifier that has diverged: its largest logits are not finite, and no class is its choice.
        """
        seeds = len(self.weight)
        if features.ndim == 2:
            features, labels = features.expand(seeds, -1, -1), labels.expand(seeds, -1)
        correct = torch.zeros(seeds, self._rates.shape[-1] // self.num_classes, dtype=torch.int64, device=labels.device)
        diverged = torch.zeros_like(correct, dtype=torch.bool)
        with full_precision():
            # In parts, so that the logits of many classes need no memory to speak of.
            for x, y in zip(features.split(_ROWS_AT_ONCE, 1), labels.split(_ROWS_AT_ONCE, 1), strict=True):
                largest, predicted = self.logits(x).max(dim=3)
                correct += (predicted == y[:, :, None]).sum(dim=1)
                diverged |= ~largest.isfinite().all(dim=1)
        return (correct.double() / features.shape[1]).masked_fill_(diverged, math.nan)

    def logits(self, features: Tensor) -> Tensor:
        """(S, M, R, K) of (S, M, D) features, with the running statistics."""
        x = features.float()
        if self.recipe.batch_norm:
            x = (x - self.mean) * (self.variance + _NORM_EPS).rsqrt()
        return torch.baddbmm(self.bias, x, self.weight).unflatten(2, (-1, self.num_classes))

    def _train_step(self, x: Tensor, y: Tensor) -> None:
        """x: (S, B, D) float32. y: (S, B) int64. The gradient of softmax and cross entropy is written out."""
        if self.recipe.batch_norm:
            x = self._normalised(x)
        logits = torch.baddbmm(self.bias, x, self.weight).unflatten(2, (-1, self.num_classes))
        gradient = logits.softmax(dim=3)
        index = y[:, :, None, None].expand(-1, -1, gradient.shape[2], 1)
        gradient.scatter_add_(3, index, torch.full_like(index, -1, dtype=gradient.dtype))
        gradient = gradient.flatten(2) / x.shape[1]
        factor = self.recipe.schedule(self.step, self.steps_per_pass, self.total_steps)
        self.step += 1
        self._update(self.weight, x.transpose(1, 2) @ gradient, self._state[0], factor)
        self._update(self.bias, gradient.sum(dim=1, keepdim=True), self._state[1], factor)

    def _normalised(self, x: Tensor) -> Tensor:
        """Batch normalisation; moves the running statistics, with the unbiased variance as PyTorch does."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        count = x.shape[1]
        self.mean.lerp_(mean, _NORM_MOMENTUM)
        self.variance.lerp_(variance * (count / (count - 1)), _NORM_MOMENTUM)
        return (x - mean) * (variance + _NORM_EPS).rsqrt()

    def _update(self, parameter: Tensor, gradient: Tensor, state: list[Tensor], factor: float) -> None:
        rates = self._rates * factor
        if self.recipe.optimizer == "adam":
            beta1, beta2, eps = _ADAM
            first, second = state
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (second.sqrt() / math.sqrt(1 - beta2**self.step)).add_(eps)
            parameter.sub_(rates / (1 - beta1**self.step) * first / scale)
            return
        if self.recipe.optimizer == "lars" and parameter is self.weight:
            gradient = gradient * self._trust(parameter, gradient)
        state[0].mul_(_MOMENTUM).add_(gradient)
        parameter.sub_(rates * state[0])

    def _trust(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """(S, 1, R * K): LARS's factor of each classifier."""
        sizes = [x.unflatten(2, (-1, self.num_classes)).norm(dim=(1, 3)) for x in (parameter, gradient)]
        usable = (sizes[0] > 0) & (sizes[1] > 0)
        trust = torch.where(usable, _TRUST * sizes[0] / sizes[1].clamp_min(torch.finfo(torch.float32).tiny), 1.0)
        return trust.repeat_interleave(self.num_classes, dim=1)[:, None]


def _initial_linear(recipe: Recipe, width: int, num_classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(K, D) weight and (K,) bias, drawn from the generator."""
    weight, bias = torch.empty(num_classes, width), torch.zeros(num_classes)
    if recipe.initial == "normal":
        weight.normal_(0, 0.01, generator=generator)
    elif recipe.initial == "truncated":
        nn.init.trunc_normal_(weight, std=0.01, generator=generator)
    else:
        bound = 1 / math.sqrt(width)
        weight.uniform_(-bound, bound, generator=generator)
        bias.uniform_(-bound, bound, generator=generator)
    return weight, bias
