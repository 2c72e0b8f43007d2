"""The named protocols: exact settings, where they come from, and how to run them.

Whoever runs one provides features by name (z, pooled, pixels, ...) of two splits: "train", which probes are fitted to,
and "test", which they are judged on. During training both are slices of the training set.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from soda_fast.evaluation.knn import knn_accuracy
from soda_fast.evaluation.linear_probe import LinearProbe, checked_classes, checked_training_set
from soda_fast.evaluation.numerics import check_features, l2_normalize

Split = Literal["train", "test"]
Setting = dict[str, int | float | str | None]

_HEADLINE_K = 20


class FeatureProvider(Protocol):
    """Features of both splits by name, each (N, D) floating point, and labels, (N,) integers."""

    augmentation: str
    """What `augmented` does to images, in words."""

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """Features of the images as they are."""

    def augmented(self, epoch: int) -> Mapping[str, Tensor]:
        """Features of the training split through the random view, drawn anew for each epoch."""

    def labels(self, split: Split) -> Tensor:
        """Classes of the images, in the order of the features."""


@dataclass(frozen=True)
class Result:
    """One number and everything that it depends on.

    accuracy: top-1 in [0, 1]. skipped_ks: numbers of neighbours left out because the bank has fewer images.
    """

    protocol: str
    features: str
    setting: Setting
    transform: str
    accuracy: float
    skipped_ks: tuple[int, ...] = ()

    @property
    def k(self) -> int | None:
        """Number of neighbours; None of a linear probe."""
        k = self.setting.get("k")
        return k if isinstance(k, int) else None


@dataclass(frozen=True)
class KnnProtocol:
    """k-NN with the training split as bank and the test split as queries.

    temperature: None for uniform votes. augmented_bank: whether the bank goes through the random view, once.
    """

    name: str
    source: str
    ks: tuple[int, ...]
    temperature: float | None
    augmented_bank: bool

    def transform(self, augmentation: str) -> str:
        """What happens to the images before the encoder, in words."""
        return f"bank: {augmentation}, once; queries: clean" if self.augmented_bank else "bank and queries: clean"

    def run(self, provider: FeatureProvider, num_classes: int, seed: int) -> list[Result]:
        """One result for each kind of features and each k. Draws nothing: the seed does not matter."""
        banks = provider.augmented(0) if self.augmented_bank else provider.clean("train")
        queries = provider.clean("test")
        _check_names(banks, queries)
        bank_labels, query_labels = provider.labels("train"), provider.labels("test")
        ks = tuple(k for k in self.ks if k <= len(bank_labels))
        if not ks:
            raise ValueError(
                f"protocol {self.name} compares with at least {min(self.ks)} training images and there are "
                f"{len(bank_labels)}: leave it out of evaluation.protocols, or add images"
            )
        skipped = tuple(k for k in self.ks if k not in ks)
        results = []
        for name, bank in banks.items():
            accuracies = knn_accuracy(bank, bank_labels, queries[name], query_labels, ks, self.temperature)
            for k, accuracy in accuracies.items():
                setting: Setting = {"k": k, "temperature": self.temperature, "metric": "cosine"}
                results.append(
                    Result(self.name, name, setting, self.transform(provider.augmentation), accuracy, skipped)
                )
        return results


@dataclass(frozen=True)
class LinearProtocol:
    """A linear classifier on L2-normalised features, trained on freshly augmented ones each epoch."""

    name: str
    source: str
    epochs: int
    learning_rate: float
    batch: int

    def transform(self, augmentation: str) -> str:
        """What happens to the images before the encoder, in words."""
        return f"train: {augmentation}, anew each epoch; test: clean"

    def run(self, provider: FeatureProvider, num_classes: int, seed: int) -> list[Result]:
        """One result for each kind of features. All probes train in step, so that an epoch is encoded once."""
        tests = {name: l2_normalize(check_features(name, x)) for name, x in provider.clean("test").items()}
        test_labels = {
            name: checked_classes("test_labels", provider.labels("test"), x, num_classes) for name, x in tests.items()
        }
        probes = {name: self._probe(test, num_classes, seed) for name, test in tests.items()}
        for epoch in range(self.epochs):
            augmented = provider.augmented(epoch)
            _check_names(augmented, tests)
            for name, train in augmented.items():
                labels = checked_training_set(train, provider.labels("train"), tests[name], num_classes)
                probes[name].train_epoch(l2_normalize(train), labels)
        transform = self.transform(provider.augmentation)
        return [
            Result(self.name, name, self._setting(seed), transform, probe.accuracy(tests[name], test_labels[name]))
            for name, probe in probes.items()
        ]

    def _probe(self, test: Tensor, num_classes: int, seed: int) -> LinearProbe:
        return LinearProbe(
            test.shape[1],
            num_classes,
            test.device,
            seed=seed,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch=self.batch,
        )

    def _setting(self, seed: int) -> Setting:
        return {
            "classifier": "BatchNorm1d(affine=False, eps=1e-6) + Linear, on L2-normalised features",
            "optimizer": "Adam, cosine to 0 by epoch",
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "batch": self.batch,
            "seed": seed,
            "reported": "last",
        }


PROTOCOLS: dict[str, KnnProtocol | LinearProtocol] = {
    protocol.name: protocol
    for protocol in (
        KnnProtocol("knn-dino", "DINO (arXiv 2104.14294), eval_knn.py", (10, 20, 100, 200), 0.07, augmented_bank=False),
        KnnProtocol("knn-reference", "FutureXiang/soda, metric.py", (20,), None, augmented_bank=True),
        LinearProtocol("linear-reference", "FutureXiang/soda, metric.py", epochs=15, learning_rate=1e-3, batch=128),
    )
}


def run_protocol(name: str, provider: FeatureProvider, num_classes: int, seed: int) -> list[Result]:
    """Run a protocol of `PROTOCOLS` on all features that the provider has.

    Raises:
        ValueError: an unknown name, or features and labels that cannot be judged.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name].run(provider, num_classes, seed)


def headline(results: Iterable[Result]) -> Result:
    """The number to quote of one protocol on one kind of features: k = 20, or the largest k below it that was run."""
    results = list(results)
    if len({(result.protocol, result.features) for result in results}) != 1:
        raise ValueError("a headline is chosen among the results of one protocol on one kind of features")
    return max((result for result in results if (result.k or 0) <= _HEADLINE_K), key=lambda result: result.k or 0)


@dataclass
class CachedFeatures:
    """A provider that encodes every pass once: clean splits are kept, of augmented passes the latest.

    encode_clean: from a split to its features. encode_augmented: from an epoch to the training split's features.
    augmentation: what encode_augmented does to images, in words.
    """

    encode_clean: Callable[[Split], Mapping[str, Tensor]]
    encode_augmented: Callable[[int], Mapping[str, Tensor]]
    split_labels: Mapping[Split, Tensor]
    augmentation: str
    _clean: dict[Split, Mapping[str, Tensor]] = field(default_factory=dict)
    _latest: tuple[int, Mapping[str, Tensor]] | None = None

    def clean(self, split: Split) -> Mapping[str, Tensor]:
        """See FeatureProvider."""
        if split not in self._clean:
            self._clean[split] = self.encode_clean(split)
        return self._clean[split]

    def augmented(self, epoch: int) -> Mapping[str, Tensor]:
        """See FeatureProvider. k-NN's augmented bank is epoch 0, which the linear probe then starts with."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = None  # frees the pass before
            self._latest = (epoch, self.encode_augmented(epoch))
        return self._latest[1]

    def labels(self, split: Split) -> Tensor:
        """See FeatureProvider."""
        return self.split_labels[split]


def _check_names(train: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> None:
    if train.keys() != test.keys():
        raise ValueError(f"features {sorted(train)} of the training split but {sorted(test)} of the test split")
