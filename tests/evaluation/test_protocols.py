"""The named protocols do what they say, once per pass, for all features together."""

from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from soda_fast.config.schema import EvaluationConfig
from soda_fast.evaluation import (
    PROTOCOLS,
    CachedFeatures,
    Result,
    Split,
    headline,
    knn_accuracy,
    linear_probe,
    run_protocol,
)

NUM_CLASSES = 4
CENTRES = torch.randn(NUM_CLASSES, 8, generator=torch.Generator().manual_seed(0))
SEED = 5


class Images:
    """Pretends to encode clouds around class centres, and counts how often."""

    def __init__(self, num_train: int = 250, num_test: int = 120) -> None:
        self.encoded: list[str] = []
        self.split_labels: dict[Split, Tensor] = {
            "train": torch.arange(num_train) % NUM_CLASSES,
            "test": torch.arange(num_test) % NUM_CLASSES,
        }

    def features(self, split: Split, noise: float, seed: int) -> dict[str, Tensor]:
        labels = self.split_labels[split]
        x = CENTRES[labels] + noise * torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed))
        return {"z": x[:, :3], "pooled": x}

    def clean(self, split: Split) -> dict[str, Tensor]:
        self.encoded.append(split)
        return self.features(split, 0.8, seed=100 + len(split))

    def augmented(self, epoch: int) -> dict[str, Tensor]:
        self.encoded.append(f"epoch {epoch}")
        return self.features("train", 1.0, seed=epoch)

    def provider(self) -> CachedFeatures:
        return CachedFeatures(self.clean, self.augmented, self.split_labels, "crops with 0.65")


def by_features(results: list[Result]) -> Mapping[str, list[Result]]:
    return {name: [result for result in results if result.features == name] for name in ("z", "pooled")}


def test_the_configuration_knows_the_same_names() -> None:
    annotation: Any = EvaluationConfig.__annotations__["protocols"]
    assert set(get_args(get_args(annotation)[0])) == set(PROTOCOLS)
    assert set(EvaluationConfig().protocols) == set(PROTOCOLS)


def test_knn_dino() -> None:
    images = Images()
    results = run_protocol("knn-dino", images.provider(), NUM_CLASSES, SEED)
    assert images.encoded == ["train", "test"]
    bank, queries = images.clean("train"), images.clean("test")
    labels = images.split_labels
    for name, its_results in by_features(results).items():
        expected = knn_accuracy(bank[name], labels["train"], queries[name], labels["test"], (10, 20, 100, 200), 0.07)
        assert {result.k: result.accuracy for result in its_results} == expected
        assert all(result.setting["temperature"] == 0.07 for result in its_results)
        assert all(result.transform == "bank and queries: clean" for result in its_results)
        assert all(result.skipped_ks == () for result in its_results)
        assert headline(its_results).k == 20


def test_knn_reference() -> None:
    images = Images()
    results = run_protocol("knn-reference", images.provider(), NUM_CLASSES, SEED)
    assert images.encoded == ["epoch 0", "test"]
    bank, queries, labels = images.augmented(0), images.clean("test"), images.split_labels
    for name, (result,) in by_features(results).items():
        expected = knn_accuracy(bank[name], labels["train"], queries[name], labels["test"], (20,), None)
        assert {result.k: result.accuracy} == expected
        assert result.setting["temperature"] is None
        assert "0.65, once; queries: clean" in result.transform


def test_linear_reference() -> None:
    images = Images()
    results = run_protocol("linear-reference", images.provider(), NUM_CLASSES, SEED)
    assert images.encoded == ["test", *(f"epoch {epoch}" for epoch in range(15))]
    for name, (result,) in by_features(results).items():
        expected = linear_probe(
            lambda epoch, name=name: normalize(images.augmented(epoch)[name]),
            images.split_labels["train"],
            normalize(images.clean("test")[name]),
            images.split_labels["test"],
            NUM_CLASSES,
            seed=SEED,
        )
        assert result.accuracy == pytest.approx(expected, abs=1e-9)
        assert result.setting["epochs"] == 15
        assert result.setting["seed"] == SEED
        assert result.k is None
        assert headline([result]) is result


def test_all_protocols_together_encode_every_pass_once() -> None:
    images = Images()
    provider = images.provider()
    for name in PROTOCOLS:
        run_protocol(name, provider, NUM_CLASSES, SEED)
    assert images.encoded == ["train", "test", *(f"epoch {epoch}" for epoch in range(15))]


def test_ks_larger_than_the_bank_are_skipped_and_said_so() -> None:
    results = run_protocol("knn-dino", Images(num_train=15).provider(), NUM_CLASSES, SEED)
    assert [result.k for result in results] == [10, 10]
    assert all(result.skipped_ks == (20, 100, 200) for result in results)
    assert headline(results[:1]).k == 10
    with pytest.raises(ValueError, match="at least 20 training images and there are 15: leave it out"):
        run_protocol("knn-reference", Images(num_train=15).provider(), NUM_CLASSES, SEED)


def test_mistakes_are_named() -> None:
    images = Images()
    with pytest.raises(ValueError, match="protocol 'knn' is unknown: choose from knn-dino"):
        run_protocol("knn", images.provider(), NUM_CLASSES, SEED)
    with pytest.raises(ValueError, match=r"outside 0\.\.1: check num_classes"):
        run_protocol("linear-reference", images.provider(), 2, SEED)
    other = CachedFeatures(images.clean, lambda epoch: {"z": CENTRES}, images.split_labels, "crops")
    for name in ("knn-reference", "linear-reference"):
        with pytest.raises(ValueError, match=r"features \['z'\] of the training split"):
            run_protocol(name, other, NUM_CLASSES, SEED)
    with pytest.raises(ValueError, match="one protocol on one kind"):
        headline(run_protocol("knn-reference", images.provider(), NUM_CLASSES, SEED))
