"""Linear protocols on features of fresh random views: all of them in step, so that a pass is encoded once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soda_fast.evaluation.holdout import stratified_holdout
from soda_fast.evaluation.linear_probe import checked_classes, checked_training_set
from soda_fast.evaluation.linear_recipe import Recipe, View
from soda_fast.evaluation.linear_stack import LinearStack
from soda_fast.evaluation.numerics import check_features, l2_normalize
from soda_fast.evaluation.provider import FeatureProvider, check_names
from soda_fast.evaluation.result import Result, Setting, over_seeds

SELECTION_FRACTION = 0.1  # of the training images: hyperparameters are chosen on it


class DivergedError(ValueError):
    """Classifiers have no accuracy, because their losses grew beyond all numbers.

    diverged: which, in words. finished: results of all others.
    """

    def __init__(self, diverged: Sequence[str], finished: Sequence[Result]) -> None:
        super().__init__(
            f"the probes {', '.join(diverged)} have diverged: their learning rates suit smaller features; normalise "
            "these with evaluation.l2_normalize=true, or leave the protocol out of evaluation.protocols and "
            "evaluation.during"
        )
        self.diverged, self.finished = tuple(diverged), list(finished)

    def __reduce__(self) -> tuple[type["DivergedError"], tuple[Sequence[str], Sequence[Result]]]:
        """It travels to other processes whole."""
        return type(self), (self.diverged, self.finished)


@dataclass(frozen=True)
class LinearProtocol:
    """A recipe by name."""

    name: str
    recipe: Recipe

    @property
    def source(self) -> str:
        """Where the settings come from."""
        return self.recipe.source

    def note(self, num_samples: int) -> str | None:
        """What to know of its accuracies where there are so few training images; None: nothing."""
        if self.recipe.passes is None or num_samples >= self.recipe.batch:
            return None
        steps = self.recipe.total_steps(num_samples)
        return (
            f"{self.name} is made for batches of {self.recipe.batch:,} images; {num_samples:,} training images make "
            f"{steps} steps, too few to get far from chance: leave it out of evaluation.protocols, or add images"
        )


def run_linear(
    protocols: Sequence[LinearProtocol], provider: FeatureProvider, num_classes: int, seeds: tuple[int, ...]
) -> list[Result]:
    """One result for each protocol and kind of features. Every pass of a view is encoded once for all of them.

    With several learning rates, two sets of classifiers train side by side: on all training images but a slice, and on
    all of them. The slice's clean features choose the learning rate, its classifier on all images meets the test split.

    Raises:
        DivergedError: classifiers that should be reported have diverged; it has the results of the others.
    """
    tests = provider.clean("test")
    jobs = [_Job(protocol, name, provider, num_classes, seeds) for protocol in protocols for name in tests]
    for view in dict.fromkeys(protocol.recipe.view for protocol in protocols):
        _train([job for job in jobs if job.view == view], view, provider)
    results: list[Result] = []
    diverged: list[str] = []
    for job in jobs:
        result = job.result()
        if math.isfinite(result.accuracy):
            results.append(result)
        else:
            diverged.append(f"{result.protocol} on {result.features}")
    if diverged:
        raise DivergedError(diverged, results)
    return results


def selection_slices(labels: Tensor, seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """(S, n) rows to fit to and (S, m) rows to choose hyperparameters on, int64, on the labels' device."""
    parts = [stratified_holdout(labels.cpu().numpy(), SELECTION_FRACTION, seed) for seed in seeds]
    fit, chosen_on = (torch.stack([torch.from_numpy(part[side]) for part in parts]) for side in (0, 1))
    return fit.to(labels.device), chosen_on.to(labels.device)


def _train(jobs: list["_Job"], view: View, provider: FeatureProvider) -> None:
    epoch = 0
    while any(not job.finished for job in jobs):
        augmented = provider.augmented(view, epoch)
        for job in jobs:
            if not job.finished:
                check_names(augmented, provider.clean("test"))
                job.train_pass(augmented[job.name])
        epoch += 1


class _Job:
    """One protocol on one kind of features."""

    def __init__(
        self, protocol: LinearProtocol, name: str, provider: FeatureProvider, num_classes: int, seeds: tuple[int, ...]
    ) -> None:
        self.protocol, self.name, self.provider = protocol, name, provider
        self.num_classes, self.seeds = num_classes, seeds
        self.view = protocol.recipe.view
        self.test = self._prepared(check_features(name, provider.clean("test")[name]))
        self.test_labels = checked_classes("test_labels", provider.labels("test"), self.test, num_classes)
        labels = provider.labels("train").to(self.test.device)
        everyone = torch.arange(len(labels), device=labels.device).expand(len(seeds), -1)
        self.full = self._stack(everyone)
        self.fit: LinearStack | None = None
        if len(protocol.recipe.learning_rates) > 1:
            fit, self.chosen_on = selection_slices(labels, seeds)
            self.fit = self._stack(fit)

    @property
    def finished(self) -> bool:
        return self.full.finished and (self.fit is None or self.fit.finished)

    def train_pass(self, features: Tensor) -> None:
        labels = checked_training_set(features, self.provider.labels("train"), self.test, self.num_classes)
        prepared = self._prepared(features)
        for stack in (self.full, self.fit):
            if stack is not None and not stack.finished:
                stack.train_pass(prepared, labels)

    def result(self) -> Result:
        """Reads the test split, for the chosen classifiers alone. Its accuracy is NaN if one of these has diverged."""
        accuracies = self.full.accuracies(self.test, self.test_labels)
        chosen = self._chosen().to(accuracies.device)
        reported = accuracies.gather(1, chosen[:, None])[:, 0]
        recipe = self.protocol.recipe
        rates = [recipe.learning_rates[i] for i in chosen.tolist()]
        setting: Setting = {
            "classifier": _classifier(recipe),
            "optimizer": recipe.optimizer,
            "learning_rates": list(recipe.learning_rates),
            "chosen_learning_rates": rates,
            "learning_rates_per_256_images": "yes" if recipe.per_256 else "no",
            "passes": recipe.passes,
            "steps": self.full.total_steps,
            "batch": self.full.batch,
            "seeds": list(self.seeds),
            "chosen_on": f"{SELECTION_FRACTION:g} of train" if self.fit is not None else "nothing to choose",
            "reported": "last",
        }
        transform = f"train: {self.provider.descriptions[self.view]}, anew each epoch; test: clean"
        return over_seeds(self.protocol.name, self.name, setting, transform, reported.tolist())

    def _chosen(self) -> Tensor:
        """(S,) the learning rate of each seed, of those that did not diverge; of equal ones the smallest."""
        if self.fit is None:
            return torch.zeros(len(self.seeds), dtype=torch.int64)
        train, labels = self._prepared(self.provider.clean("train")[self.name]), self.provider.labels("train")
        accuracies = self.fit.accuracies(train[self.chosen_on], labels.to(train.device)[self.chosen_on])
        return accuracies.nan_to_num(-1.0).argmax(dim=1)

    def _stack(self, members: Tensor) -> LinearStack:
        return LinearStack(self.protocol.recipe, members, self.test.shape[1], self.num_classes, self.seeds)

    def _prepared(self, features: Tensor) -> Tensor:
        return l2_normalize(features) if self.protocol.recipe.normalize else features


def _classifier(recipe: Recipe) -> str:
    words = "BatchNorm1d(affine=False, eps=1e-6) + Linear" if recipe.batch_norm else "Linear"
    return f"{words}, on L2-normalised features" if recipe.normalize else words
