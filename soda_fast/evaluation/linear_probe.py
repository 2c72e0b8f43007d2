"""One linear classifier on frozen features: the reference implementation's recipe, or another."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from soda_fast.evaluation.linear_recipe import REFERENCE
from soda_fast.evaluation.linear_stack import LinearStack
from soda_fast.evaluation.numerics import check_features, check_labels

EpochFeatures = Callable[[int], Tensor]


def linear_probe(
    train_features: EpochFeatures | Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    num_classes: int,
    *,
    seed: int,
    epochs: int = 15,
    learning_rate: float = 1e-3,
    batch: int = 128,
) -> float:
    """Train a linear classifier on frozen features; its top-1 accuracy in [0, 1] on the test features.

    BatchNorm1d(affine=False, eps=1e-6) and Linear, Adam, cosine by epoch, as FutureXiang/soda's metric.py. Runs on the
    features' device. L2-normalising the features, which that protocol does, is the caller's.

    Args:
        train_features: (N, D) floating point; or a function from an epoch 0, 1, ... to its freshly augmented features.
        train_labels: (N,) integers in 0..num_classes-1.
        test_features: (M, D) floating point.
        test_labels: (M,) integers in 0..num_classes-1.
        num_classes: classes to tell apart.
        seed: of initial weights and orders.
        epochs, learning_rate, batch: the reference's, unless told otherwise.

    Raises:
        ValueError: inputs that are empty, not finite or do not fit together; settings out of range; the training
            diverged.
    """
    _check_settings(num_classes, epochs, learning_rate, batch)
    features_of = train_features if callable(train_features) else lambda epoch: train_features
    check_features("test_features", test_features)
    test_labels = checked_classes("test_labels", test_labels, test_features, num_classes)
    recipe = replace(REFERENCE, passes=epochs, learning_rates=(learning_rate,), batch=batch)
    stack: LinearStack | None = None
    for epoch in range(epochs):
        features = features_of(epoch)
        labels = checked_training_set(features, train_labels, test_features, num_classes)
        if stack is None:
            members = torch.arange(len(features), device=features.device)[None]
            stack = LinearStack(recipe, members, test_features.shape[1], num_classes, (seed,))
        stack.train_pass(features, labels)
    assert stack is not None, "epochs is at least 1"
    accuracy = float(stack.accuracies(test_features, test_labels))
    if math.isnan(accuracy):
        raise ValueError(
            f"the probe has diverged at learning_rate {learning_rate:g}: lower it, or L2-normalise the features"
        )
    return accuracy


def checked_training_set(features: Tensor, labels: Tensor, test_features: Tensor, num_classes: int) -> Tensor:
    """(N,) int64 labels on the features' device, after a look at both.

    Raises:
        ValueError: they do not fit each other or the test features.
    """
    check_features("train_features", features)
    labels = checked_classes("train_labels", labels, features, num_classes)
    if features.shape[1] != test_features.shape[1] or features.device != test_features.device:
        raise ValueError(
            f"train_features have {features.shape[1]} columns on {features.device} and test_features have "
            f"{test_features.shape[1]} on {test_features.device}: take both from one encoder, on one device"
        )
    if len(features) < 2:
        raise ValueError("train_features has 1 row: a probe with batch normalisation needs at least 2 images")
    return labels


def checked_classes(name: str, labels: Tensor, features: Tensor, num_classes: int) -> Tensor:
    """(N,) int64 labels on the features' device, all in 0..num_classes-1.

    Raises:
        ValueError: they are not.
    """
    labels = check_labels(name, torch.as_tensor(labels), features)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name} run from {low} to {high}, outside 0..{num_classes - 1}: check num_classes")
    return labels


def _check_settings(num_classes: int, epochs: int, learning_rate: float, batch: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: a classifier needs at least 2 classes")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: train for at least 1")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate}: give a positive number")
    if batch < 2:
        raise ValueError(f"batch is {batch}: batch normalisation needs at least 2 samples")
