"""The named protocols do what they say, once per pass, for all features together."""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from soda_fast.config.schema import PROTOCOL_NAMES, EvaluationConfig, ProtocolName
from soda_fast.evaluation import (
    MEASURES,
    PROTOCOLS,
    CachedFeatures,
    Result,
    Split,
    headline,
    knn_accuracy,
    linear_probe,
    notes,
    run_protocol,
    run_protocols,
)
from soda_fast.evaluation.holdout import stratified_holdout
from soda_fast.evaluation.linear_protocol import DivergedError, LinearProtocol
from soda_fast.evaluation.linear_recipe import DINOV2, MAE, SOLO, View
from soda_fast.evaluation.linear_stack import LinearStack

NUM_CLASSES = 4
DESCRIPTIONS: dict[View, str] = {"reference": "crops with 0.65", "standard": "crops"}
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

    def augmented(self, view: View, epoch: int) -> dict[str, Tensor]:
        self.encoded.append(f"{view} {epoch}")
        return self.features("train", 1.0 if view == "reference" else 1.2, seed=epoch)

    def provider(self) -> CachedFeatures:
        return CachedFeatures(self.clean, self.augmented, self.split_labels, DESCRIPTIONS)


def by_features(results: list[Result]) -> Mapping[str, list[Result]]:
    return {name: [result for result in results if result.features == name] for name in ("z", "pooled")}


def test_the_configuration_knows_the_same_names() -> None:
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)
    assert set(PROTOCOL_NAMES) == {*PROTOCOLS, *MEASURES}
    assert set(EvaluationConfig().protocols) <= set(PROTOCOLS)


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
    assert images.encoded == ["reference 0", "test"]
    bank, queries, labels = images.augmented("reference", 0), images.clean("test"), images.split_labels
    for name, (result,) in by_features(results).items():
        expected = knn_accuracy(bank[name], labels["train"], queries[name], labels["test"], (20,), None)
        assert {result.k: result.accuracy} == expected
        assert result.setting["temperature"] is None
        assert "0.65, once; queries: clean" in result.transform


def test_linear_reference() -> None:
    images = Images()
    results = run_protocol("linear-reference", images.provider(), NUM_CLASSES, SEED)
    assert images.encoded == ["test", *(f"reference {epoch}" for epoch in range(15))]
    for name, (result,) in by_features(results).items():
        expected = linear_probe(
            lambda epoch, name=name: normalize(images.augmented("reference", epoch)[name]),
            images.split_labels["train"],
            normalize(images.clean("test")[name]),
            images.split_labels["test"],
            NUM_CLASSES,
            seed=SEED,
        )
        assert result.accuracy == pytest.approx(expected, abs=1e-9)
        assert result.setting["passes"] == 15
        assert result.setting["seeds"] == [SEED]
        assert result.k is None
        assert headline([result]) is result


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear protocols with everything as it is but their length."""
    for name, recipe in (("mae", MAE), ("dinov2", DINOV2), ("solo", SOLO)):
        length = {"steps": 40} if recipe.passes is None else {"passes": 12}
        monkeypatch.setitem(PROTOCOLS, f"linear-{name}", LinearProtocol(f"linear-{name}", replace(recipe, **length)))


def test_all_protocols_together_encode_every_pass_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    images = Images()
    results = run_protocols(list(PROTOCOLS), images.provider(), NUM_CLASSES, (SEED, SEED + 1))
    # 40 steps of 128 of 250 images: one step a pass.
    passes = [*(f"reference {epoch}" for epoch in range(15)), *(f"standard {epoch}" for epoch in range(40))]
    assert images.encoded == ["train", "test", "reference 0", *passes[1:]]
    assert list(dict.fromkeys(result.protocol for result in results)) == list(PROTOCOLS)
    for result in results:
        assert len(result.per_seed) == (0 if result.protocol.startswith("knn") else 2)
        assert (result.deviation is None) == result.protocol.startswith("knn")
        assert not result.per_seed or result.accuracy == pytest.approx(sum(result.per_seed) / 2)


def test_several_rates_are_chosen_on_a_slice_of_train_and_the_test_split_is_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten(monkeypatch)
    read: list[int] = []
    original = LinearStack.accuracies

    def watched(self: LinearStack, features: Tensor, labels: Tensor) -> Tensor:
        read.append(features.shape[-2])
        return original(self, features, labels)

    monkeypatch.setattr(LinearStack, "accuracies", watched)
    results = run_protocol("linear-dinov2", Images().provider(), NUM_CLASSES, SEED)
    held_out = len(stratified_holdout(Images().split_labels["train"].numpy(), 0.1, SEED)[1])
    assert read == [120, held_out] * 2
    for result in results:
        assert result.setting["chosen_on"] == "0.1 of train"
        assert set(result.setting["chosen_learning_rates"]) <= set(DINOV2.learning_rates)  # type: ignore[arg-type]
        assert result.accuracy > 0.5


def test_labels_of_the_test_split_choose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the test split says, the same hyperparameters are chosen."""
    shorten(monkeypatch)
    names = ["linear-dinov2", "linear-solo", "linear-logistic"]
    chosen = []
    for turn in (0, 1):
        images = Images()
        images.split_labels["test"] = (images.split_labels["test"] + turn) % NUM_CLASSES
        results = run_protocols(names, images.provider(), NUM_CLASSES, (SEED,))
        chosen.append([r.setting.get("chosen_learning_rates", r.setting.get("chosen_C")) for r in results])
    assert chosen[0] == chosen[1]


def test_a_protocol_gives_the_same_number_alone_and_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    together = run_protocols(list(PROTOCOLS), Images().provider(), NUM_CLASSES, (SEED,))
    for name in PROTOCOLS:
        alone = run_protocol(name, Images().provider(), NUM_CLASSES, SEED)
        assert [result for result in together if result.protocol == name] == alone


class LargeImages(Images):
    """z is so large that a step of 0.001 leads beyond float32; pooled is as it was."""

    def features(self, split: Split, noise: float, seed: int) -> dict[str, Tensor]:
        found = super().features(split, noise, seed)
        return {"z": found["z"] * 1e25, "pooled": found["pooled"]}


def test_a_probe_that_diverges_is_told_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    names = ["linear-solo", "linear-reference", "knn-dino"]
    with pytest.raises(DivergedError, match=r"linear-solo on z have diverged.*evaluation\.l2_normalize=true") as caught:
        run_protocols(names, LargeImages().provider(), NUM_CLASSES, (SEED,))
    finished = [(result.protocol, result.features) for result in caught.value.finished]
    assert list(dict.fromkeys(finished)) == [
        ("linear-solo", "pooled"),
        *(("linear-reference", features) for features in ("z", "pooled")),
        *(("knn-dino", features) for features in ("z", "pooled")),
    ]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.finished) == (str(caught.value), caught.value.finished)


def test_a_learning_rate_that_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although all of its votes are for the first class, as almost all images are here."""
    recipe = replace(SOLO, passes=2, learning_rates=(1e-30, 1e38))
    monkeypatch.setitem(PROTOCOLS, "linear-solo", LinearProtocol("linear-solo", recipe))
    images = Images()
    images.split_labels["train"] = (torch.arange(250) % 20 == 0).long()
    (z, pooled) = run_protocol("linear-solo", images.provider(), NUM_CLASSES, SEED)
    assert z.setting["chosen_learning_rates"] == pooled.setting["chosen_learning_rates"] == [1e-30]


def test_few_images_for_a_large_batch_are_noted() -> None:
    (note,) = notes(["knn-dino", "linear-mae", "linear-mae", "linear-dinov2"], 1347)
    assert note.startswith("linear-mae is made for batches of 16,384 images; 1,347 training images make 90 steps")
    assert "evaluation.protocols" in note
    assert notes(["linear-mae", "linear-solo"], 16_384) == []


def test_knn_lightly() -> None:
    results = run_protocol("knn-lightly", Images().provider(), NUM_CLASSES, SEED)
    assert {(result.k, result.setting["temperature"]) for result in results} == {(200, 0.1)}
    assert headline(results[:1]).k == 200


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
    other = CachedFeatures(images.clean, lambda view, epoch: {"z": CENTRES}, images.split_labels, DESCRIPTIONS)
    for name in ("knn-reference", "linear-reference"):
        with pytest.raises(ValueError, match=r"features \['z'\] of the training split"):
            run_protocol(name, other, NUM_CLASSES, SEED)
    with pytest.raises(ValueError, match="one protocol on one kind"):
        headline(run_protocol("knn-reference", images.provider(), NUM_CLASSES, SEED))
