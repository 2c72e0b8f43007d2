"""Classifiers trained together against plain loops, one learning rate and seed at a time; the recipes' numbers."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from soda_fast.evaluation.linear_recipe import DINOV2, MAE, REFERENCE, SOLO, Recipe
from soda_fast.evaluation.linear_stack import LinearStack

WIDTH, CLASSES, COUNT = 12, 5, 300
GENERATOR = torch.Generator().manual_seed(1)
CENTRES = torch.randn(CLASSES, WIDTH, generator=GENERATOR)
LABELS = torch.randint(CLASSES, (COUNT,), generator=GENERATOR)
FEATURES = 2 + 2 * CENTRES[LABELS] + torch.randn(COUNT, WIDTH, generator=GENERATOR)

# Long enough for each schedule to do all it does; small enough to run in a second.
SHORT = {
    "reference": replace(REFERENCE, passes=4),
    "mae": replace(MAE, passes=14, batch=70),
    "dinov2": replace(DINOV2, steps=25, batch=64),
    "solo": replace(SOLO, passes=83, batch=128),
}


class PlainLars(torch.optim.Optimizer):
    """LARS as MAE's paper describes it (momentum 0.9, trust 0.001), a parameter at a time."""

    def __init__(self, parameters: Iterator[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                update = p.grad if p.ndim == 1 else p.grad * 0.001 * p.norm() / p.grad.norm()
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(0.9).add_(update)
                p -= group["lr"] * momentum


def factor(name: str, step: int, per_pass: int, total: int) -> float:
    """The schedules, written down a second time."""
    epoch, end = step / per_pass, total / per_pass
    if name == "reference":
        return 0.5 * (1 + math.cos(math.pi * (step // per_pass) / 4))
    if name == "dinov2":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    if name == "solo":
        return 1.0 if epoch < 60 else 0.1 if epoch < 80 else 0.01
    return epoch / 10 if epoch < 10 else 0.5 * (1 + math.cos(math.pi * (epoch - 10) / (end - 10)))


def plain_loop(name: str, recipe: Recipe, rate: float, seed: int, x: Tensor, y: Tensor) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        nn.init.zeros_(linear.bias)
        if name == "mae":
            nn.init.trunc_normal_(linear.weight, std=0.01, generator=generator)
        elif name == "dinov2":
            linear.weight.normal_(std=0.01, generator=generator)
        else:
            for p in linear.parameters():
                p.uniform_(-1 / math.sqrt(WIDTH), 1 / math.sqrt(WIDTH), generator=generator)
    first = nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6) if name in ("reference", "mae") else nn.Identity()
    model = nn.Sequential(first, linear)
    make = {
        "reference": torch.optim.Adam,
        "mae": PlainLars,
        "dinov2": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
        "solo": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    }[name]
    batch = recipe.batch
    peak = rate if name == "reference" else rate * batch / 256
    optimizer = make(model.parameters(), lr=peak)
    per_pass = len(x) // batch if name != "reference" else math.ceil(len(x) / batch)
    total, step = recipe.steps or recipe.passes * per_pass, 0  # type: ignore[operator]
    while step < total:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, per_pass * batch, batch):
            if step == total:
                break
            for group in optimizer.param_groups:
                group["lr"] = peak * factor(name, step, per_pass, total)
            rows = order[start : start + batch]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    return model.eval()


@pytest.mark.parametrize("name", SHORT)
def test_each_learning_rate_equals_a_plain_loop_of_its_own(name: str) -> None:
    recipe, seeds = SHORT[name], (3, 8)
    # Other members for each seed, as when hyperparameters are chosen on a slice.
    members = torch.stack([torch.randperm(COUNT, generator=GENERATOR)[:280].sort().values for _ in seeds])
    stack = LinearStack(recipe, members, WIDTH, CLASSES, seeds)
    while not stack.finished:
        stack.train_pass(FEATURES, LABELS)
    logits = stack.logits(FEATURES.expand(2, -1, -1))
    accuracies = stack.accuracies(FEATURES, LABELS)
    for s, seed in enumerate(seeds):
        for r, rate in enumerate(recipe.learning_rates):
            model = plain_loop(name, recipe, rate, seed, FEATURES[members[s]], LABELS[members[s]])
            expected = model(FEATURES)
            torch.testing.assert_close(logits[s, :, r], expected, atol=2e-4, rtol=2e-4)
            accuracy = (expected.argmax(1) == LABELS).double().mean().item()
            assert accuracies[s, r].item() == pytest.approx(accuracy, abs=1.5 / COUNT)


def test_thirteen_together_equal_each_alone() -> None:
    members = torch.arange(COUNT)[None]
    recipe = SHORT["dinov2"]

    def trained(rates: tuple[float, ...]) -> Tensor:
        stack = LinearStack(replace(recipe, learning_rates=rates), members, WIDTH, CLASSES, (0,))
        while not stack.finished:
            stack.train_pass(FEATURES, LABELS)
        return stack.logits(FEATURES[None])[0]

    together = trained(recipe.learning_rates)
    assert len(recipe.learning_rates) == 13
    for r, rate in enumerate(recipe.learning_rates):
        torch.testing.assert_close(together[:, r : r + 1], trained((rate,)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[:, 0], together[:, 12], atol=0.1)


def test_the_published_numbers() -> None:
    assert MAE.rates(50_000) == [6.4]
    assert (MAE.steps_per_pass(1_281_167), MAE.total_steps(1_281_167)) == (78, 90 * 78)
    assert DINOV2.rates(50_000)[0] == pytest.approx(5e-6)
    assert DINOV2.rates(50_000)[-1] == pytest.approx(0.05)
    assert DINOV2.total_steps(50_000) == DINOV2.total_steps(1_281_167) == 12_500
    assert SOLO.rates(50_000) == [0.1, 0.3, 1.0]
    assert [SOLO.schedule(step, 1, 100) for step in (0, 59, 60, 79, 80, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert REFERENCE.rates(50_000) == [1e-3]
    assert REFERENCE.total_steps(50_000) == 15 * 391
    assert [MAE.schedule(step, 10, 900) for step in (0, 50, 100, 500, 900)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_a_set_smaller_than_a_batch_is_one_batch_at_its_own_rate() -> None:
    assert (MAE.batch_of(1000), MAE.steps_per_pass(1000)) == (1000, 1)
    assert MAE.rates(1000) == [0.1 * 1000 / 256]
