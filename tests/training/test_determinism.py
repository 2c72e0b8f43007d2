"""train.deterministic: switches that a training turns, and turns back."""

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch._inductor import config as inductor
from torch.utils import deterministic as memory
from training.tiny import run_tiny, tiny_tree, weights_hash

from soda_fast import replay, train
from soda_fast.config import config_from_tree
from soda_fast.data import Batch
from soda_fast.run_directory import RunDirectory
from soda_fast.training.determinism import kernel_choice
from soda_fast.training.step import TrainStep

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def switches() -> dict[str, Any]:
    return {
        "deterministic": torch.get_deterministic_debug_mode(),
        "inductor": inductor.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
        "fill": memory.fill_uninitialized_memory,
        "cublas": os.environ.get(CUBLAS),
    }


@pytest.fixture(autouse=True)
def no_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS, raising=False)


def test_the_choice_is_made_and_taken_back() -> None:
    before = switches()
    with kernel_choice(deterministic=True):
        expected = {"deterministic": 2, "inductor": True, "benchmark": False, "fill": False, "cublas": ":4096:8"}
        assert switches() == expected
        with kernel_choice(deterministic=False):
            assert switches() == expected | {"deterministic": 0, "inductor": False, "benchmark": True}
        assert switches() == expected
    assert switches() == before


def fail_under_a_choice() -> NoReturn:
    with kernel_choice(deterministic=True):
        raise ValueError("in between", switches()["cublas"])


def test_a_callers_own_switches_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    try:
        before = switches()
        with pytest.raises(ValueError, match=r"in between.*:16:8"):
            fail_under_a_choice()
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("verb", [train, replay])
def test_training_and_replay_choose(
    verb: Any, deterministic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from_tree(tiny_tree(tmp_path, 1, deterministic=deterministic))
    monkeypatch.setattr(replay.failures, "newest", lambda _: SimpleNamespace(config=config))
    before, during = switches(), []

    def look(_: object) -> NoReturn:
        during.append(switches())
        raise ValueError("seen")

    monkeypatch.setattr(verb, "load_dataset", look)
    with pytest.raises(ValueError, match="seen"):
        train.train(config) if verb is train else replay.replay(RunDirectory(tmp_path))
    (found,) = during
    assert (found["deterministic"] > 0) == deterministic
    assert found["benchmark"] != deterministic
    assert switches() == before


def test_a_deterministic_training_reads_no_memory_that_it_has_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled with NaN or not, the weights are the same."""
    run_tiny(tiny_tree(tmp_path / "plain", 2, deterministic=True))
    monkeypatch.setattr(type(memory), "fill_uninitialized_memory", property(lambda _: True, lambda *_: None))
    run_tiny(tiny_tree(tmp_path / "filled", 2, deterministic=True))
    assert weights_hash(tmp_path / "plain") == weights_hash(tmp_path / "filled")


@pytest.mark.parametrize("name", ["train_step", "memory"])
def test_the_benchmarks_run_the_kernels_of_training(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They measure no other step than the one that trains."""
    found = []

    def step(self: TrainStep, parts: list[Batch]) -> None:
        found.append((torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark))
        real(self, parts)

    real = TrainStep.__call__
    monkeypatch.setattr(TrainStep, "__call__", step)
    config = tmp_path / "config.yaml"
    config.write_text(str(tiny_tree(tmp_path / "run", 2, deterministic=True)))
    monkeypatch.setattr(sys, "argv", [name, "--config", str(config)])
    assert importlib.import_module(f"benchmarks.{name}").main() == 0
    assert found[0] == (2, False), "before memory is also predicted, with fake tensors"
