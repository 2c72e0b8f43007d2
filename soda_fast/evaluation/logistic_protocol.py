"""Logistic regression on frozen clean features, C swept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from soda_fast.evaluation.linear_probe import checked_classes, checked_training_set
from soda_fast.evaluation.linear_protocol import SELECTION_FRACTION, selection_slices
from soda_fast.evaluation.logistic import MAX_ITERATIONS, TOLERANCE, fit_logistic, logistic_accuracies
from soda_fast.evaluation.numerics import check_features
from soda_fast.evaluation.provider import FeatureProvider, check_names
from soda_fast.evaluation.result import Result, Setting, over_seeds


@dataclass(frozen=True)
class LogisticProtocol:
    """L-BFGS in float64. C is chosen on a slice of the training images, then fitted again to all of them.

    strengths: values of C, rising. A seed chooses the slice; nothing else is drawn.
    """

    name: str
    source: str
    strengths: tuple[float, ...]

    def run(self, provider: FeatureProvider, num_classes: int, seeds: tuple[int, ...]) -> list[Result]:
        """One result for each kind of features."""
        trains, tests = provider.clean("train"), provider.clean("test")
        check_names(trains, tests)
        return [self._judge(name, train, tests[name], provider, num_classes, seeds) for name, train in trains.items()]

    def _judge(
        self,
        name: str,
        train: Tensor,
        test: Tensor,
        provider: FeatureProvider,
        num_classes: int,
        seeds: tuple[int, ...],
    ) -> Result:
        check_features(name, test)
        test_labels = checked_classes("test_labels", provider.labels("test"), test, num_classes)
        labels = checked_training_set(train, provider.labels("train"), test, num_classes)
        chosen = [
            self._choose(train[fit], labels[fit], train[on], labels[on], num_classes)
            for fit, on in zip(*selection_slices(labels, seeds), strict=True)
        ]
        different = sorted(set(chosen))
        weights = fit_logistic(train, labels, num_classes, different)
        accuracy = dict(zip(different, logistic_accuracies(weights, test, test_labels).tolist(), strict=True))
        setting: Setting = {
            "classifier": "Linear",
            "optimizer": f"L-BFGS, float64, to a gradient of {TOLERANCE:g}, at most {MAX_ITERATIONS} iterations",
            "C": list(self.strengths),
            "chosen_C": chosen,
            "seeds": list(seeds),
            "chosen_on": f"{SELECTION_FRACTION:g} of train",
            "reported": "last",
        }
        return over_seeds(self.name, name, setting, "train and test: clean", [accuracy[c] for c in chosen])

    def _choose(self, train: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor, classes: int) -> float:
        """The best C; of equal ones the smallest."""
        weights = fit_logistic(train, labels, classes, list(self.strengths))
        return self.strengths[int(torch.argmax(logistic_accuracies(weights, held_out, held_out_labels)))]
