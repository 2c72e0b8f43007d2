"""The linear probe against a plain loop and scikit-learn, and what it refuses."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from soda_fast.evaluation import linear_probe
from soda_fast.evaluation.linear_recipe import REFERENCE
from soda_fast.evaluation.linear_stack import LinearStack
from soda_fast.evaluation.numerics import l2_normalize


def separable(num: int, seed: int, width: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(5))
    labels = torch.randint(classes, (num,), generator=generator)
    return 3 + 4 * centres[labels] + 0.7 * torch.randn(num, width, generator=generator), labels


TRAIN, TRAIN_LABELS = separable(600, seed=1)
TEST, TEST_LABELS = separable(300, seed=2)
SETS = (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)


def plain_loop(epochs: int, batch: int, seed: int) -> nn.Sequential:
    """The protocol without any of the package's code, drawing the same numbers from the generator."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.BatchNorm1d(12, affine=False, eps=1e-6), nn.Linear(12, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.empty_like(parameter).uniform_(-1, 1, generator=generator)) / math.sqrt(12))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.randperm(len(TRAIN), generator=generator)
        for start in range(0, len(TRAIN), batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(model(TRAIN[rows]), TRAIN_LABELS[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("epochs", "batch"), [(3, 128), (15, 128), (2, 299), (1, 600)])
def test_equals_a_plain_loop(epochs: int, batch: int) -> None:
    expected = plain_loop(epochs, batch, seed=3)
    recipe = replace(REFERENCE, passes=epochs, batch=batch)
    probe = LinearStack(recipe, torch.arange(len(TRAIN))[None], 12, 5, (3,))
    for _ in range(epochs):
        probe.train_pass(TRAIN, TRAIN_LABELS)
    assert probe.finished
    trained = probe.logits(TEST[None])[0, :, 0]
    torch.testing.assert_close(trained, expected(TEST), atol=1e-5, rtol=1e-5)
    accuracy = (expected(TEST).argmax(1) == TEST_LABELS).double().mean().item()
    assert linear_probe(*SETS, 5, seed=3, epochs=epochs, batch=batch) == pytest.approx(accuracy, abs=1e-9)


def test_reaches_logistic_regression_on_separable_data() -> None:
    regression = LogisticRegression(max_iter=1000).fit(TRAIN.numpy(), TRAIN_LABELS.numpy())
    expected = regression.score(TEST.numpy(), TEST_LABELS.numpy())
    assert expected > 0.99
    assert linear_probe(*SETS, 5, seed=0, epochs=60) >= expected - 0.005


def test_deterministic_in_the_seed_and_in_nothing_else() -> None:
    torch.manual_seed(1)
    first = linear_probe(*SETS, 5, seed=0, epochs=1)
    torch.manual_seed(2)
    assert linear_probe(*SETS, 5, seed=0, epochs=1) == first
    assert len({linear_probe(*SETS, 5, seed=seed, epochs=1) for seed in range(4)}) > 1


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    linear_probe(*SETS, 5, seed=0, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_runs_where_gradients_are_off() -> None:
    with torch.no_grad():
        accuracy = linear_probe(*SETS, 5, seed=0, epochs=2)
    assert accuracy == linear_probe(*SETS, 5, seed=0, epochs=2)


def test_features_of_each_epoch() -> None:
    epochs = []

    def features_of(epoch: int) -> Tensor:
        epochs.append(epoch)
        return TRAIN

    assert linear_probe(features_of, *SETS[1:], 5, seed=0, epochs=4) == linear_probe(*SETS, 5, seed=0, epochs=4)
    assert epochs == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("num", "batch", "sizes"),
    [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (4, 3, [4]), (2, 3, [2]), (257, 128, [128, 129])],
)
def test_a_last_batch_of_one_joins_the_one_before(num: int, batch: int, sizes: list[int]) -> None:
    sizes_seen = []

    class Watched(LinearStack):
        def _train_step(self, x: Tensor, y: Tensor) -> None:
            sizes_seen.append(len(y[0]))
            super()._train_step(x, y)

    recipe = replace(REFERENCE, batch=batch)
    Watched(recipe, torch.arange(num)[None], 12, 5, (0,)).train_pass(TRAIN, TRAIN_LABELS)
    assert sizes_seen == sizes


def test_trains_on_a_last_batch_of_one() -> None:
    assert linear_probe(TRAIN[:257], TRAIN_LABELS[:257], TEST, TEST_LABELS, 5, seed=0, epochs=15) > 0.5


def test_raw_digits() -> None:
    """Pixels of scikit-learn's digits. The protocol's 15 epochs are 165 steps here, too few to finish: 50 pass 90 %."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    features, labels = l2_normalize(images[order]), labels[order]
    digits = (features[:1347], labels[:1347], features[1347:], labels[1347:], 10)
    assert linear_probe(*digits, seed=0) > 0.78
    assert linear_probe(*digits, seed=0, epochs=50) > 0.90


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": TRAIN[:, :3]}, "3 columns on cpu and test_features have 12"),
        ({"train_features": TRAIN[1:]}, "train_labels has the shape"),
        ({"train_features": torch.full_like(TRAIN, math.nan)}, "train_features has 600 rows with NaN"),
        ({"train_features": TRAIN[:1], "train_labels": TRAIN_LABELS[:1]}, "needs at least 2 images"),
        ({"test_labels": TEST_LABELS.float()}, "integer class numbers"),
        ({"num_classes": 4}, "outside 0..3: check num_classes"),
        ({"num_classes": 1, "test_labels": 0 * TEST_LABELS}, "num_classes is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 1}, "batch is 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = dict(
        zip(("train_features", "train_labels", "test_features", "test_labels"), SETS, strict=True), num_classes=5
    )
    with pytest.raises(ValueError, match=message):
        linear_probe(**(good | change), seed=0)
