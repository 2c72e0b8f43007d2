"""The reference implementation's linear probe (FutureXiang/soda, metric.py).

BatchNorm1d(affine=False, eps=1e-6) and Linear on frozen features; Adam, learning rate 1e-3 annealed by a cosine that
steps once an epoch to 0 over 15 epochs; batches of 128 in random order; cross entropy; the last classifier counts.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from soda_fast.evaluation.numerics import check_features, check_labels, full_precision

EpochFeatures = Callable[[int], Tensor]


class LinearProbe:
    """A classifier in training, one epoch at a time, so that several can share the features of an epoch.

    Its initial weights and its orders come from a generator of its own: equal seeds give equal classifiers, and the
    global random state is neither read nor moved.

    Args:
        width: of the features, D.
        num_classes: classes to tell apart.
        device: of the features.
        seed: of weights and orders.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        device: torch.device,
        *,
        seed: int,
        epochs: int = 15,
        learning_rate: float = 1e-3,
        batch: int = 128,
    ) -> None:
        _check_settings(num_classes, epochs, learning_rate, batch)
        self.batch = batch
        # On the CPU whatever the device, so that weights and orders do not depend on it.
        self.generator = torch.Generator().manual_seed(seed)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6, device=device)
        self.linear = _initialised_linear(width, num_classes, self.generator).to(device)
        self.optimizer = torch.optim.Adam(self.linear.parameters(), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs)

    def train_epoch(self, features: Tensor, labels: Tensor) -> None:
        """One pass over (N, D) features and (N,) int64 labels in a new random order."""
        self.norm.train()
        order = torch.randperm(len(features), generator=self.generator).to(features.device)
        with torch.enable_grad(), full_precision():
            for rows in batches_of(order, self.batch):
                logits = self.linear(self.norm(features[rows].float()))
                loss = nn.functional.cross_entropy(logits, labels[rows])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Top-1 accuracy in [0, 1] on (M, D) features and (M,) int64 labels."""
        self.norm.eval()
        with full_precision():
            # In parts, so that the logits of a thousand classes need no memory to speak of.
            parts = zip(features.split(8192), labels.split(8192), strict=True)
            correct = [(self.linear(self.norm(x.float())).argmax(dim=1) == y).sum() for x, y in parts]
        return int(torch.stack(correct).sum()) / len(features)


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

    Runs on the features' device.

    Args:
        train_features: (N, D) floating point; or a function from an epoch 0, 1, ... to its freshly augmented features.
        train_labels: (N,) integers in 0..num_classes-1.
        test_features: (M, D) floating point.
        test_labels: (M,) integers in 0..num_classes-1.
        num_classes: classes to tell apart.
        seed: of initial weights and orders.
        epochs, learning_rate, batch: the reference's, unless told otherwise.

    Raises:
        ValueError: inputs that are empty, not finite or do not fit together; settings out of range.
    """
    features_of = train_features if callable(train_features) else lambda epoch: train_features
    check_features("test_features", test_features)
    test_labels = checked_classes("test_labels", test_labels, test_features, num_classes)
    probe = LinearProbe(
        test_features.shape[1],
        num_classes,
        test_features.device,
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
    )
    for epoch in range(epochs):
        features = features_of(epoch)
        labels = checked_training_set(features, train_labels, test_features, num_classes)
        probe.train_epoch(features, labels)
    return probe.accuracy(test_features, test_labels)


def batches_of(order: Tensor, batch: int) -> list[Tensor]:
    """The order cut into batches, the last one shorter.

    A last batch of a single sample joins the one before: batch normalisation knows no variance of one sample.
    """
    batches = list(order.split(batch))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


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


def _initialised_linear(width: int, num_classes: int, generator: torch.Generator) -> nn.Linear:
    """nn.Linear with its default distribution, U(-1/sqrt(D), 1/sqrt(D)) for weight and bias, from the generator."""
    linear = nn.utils.skip_init(nn.Linear, width, num_classes)
    bound = 1 / math.sqrt(width)
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear


def _check_settings(num_classes: int, epochs: int, learning_rate: float, batch: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: a classifier needs at least 2 classes")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: train for at least 1")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate is {learning_rate}: give a positive number")
    if batch < 2:
        raise ValueError(f"batch is {batch}: batch normalisation needs at least 2 samples")
