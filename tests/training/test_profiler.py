"""Profiles of a training: at given steps, on demand, and when a step is slow."""

import gzip
import json
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from torch import nn
from training.tiny import BATCH, run_tiny, tiny_tree, trainer_of

from soda_fast.config import ConfigError, config_from_tree
from soda_fast.config.schema import ProfileConfig
from soda_fast.parallel import Processes, start_processes
from soda_fast.parallel.compiling import compile_method
from soda_fast.profiling.kinds import ROOMS
from soda_fast.run_directory import find_changes
from soda_fast.spans import span
from soda_fast.training.profiler import Profiler
from soda_fast.training.signals import StopRequest
from soda_fast.training.slow_steps import SlowSteps


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "run"
    run_tiny({**tiny_tree(path, steps=6), "profile": {"steps": [2, 4]}})
    return path / "profile"


@pytest.fixture
def alone() -> Iterator[Processes]:
    with start_processes("cpu") as processes:
        yield processes


def annotations(trace: Path) -> set[str]:
    """Names of steps and of their parts."""
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    return {name for name in names if name in ROOMS or name.startswith("ProfilerStep#")}


def test_the_given_steps_are_traced_with_the_names_of_the_rooms(run: Path) -> None:
    names = annotations(run / "steps-2-4" / "rank0.pt.trace.json.gz")
    assert {name for name in names if name.startswith("ProfilerStep")} == {f"ProfilerStep#{n}" for n in (2, 3, 4)}
    assert set(ROOMS) <= names


def test_the_summary_is_of_these_steps(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary == json.loads((run / "steps-2-4" / "rank0.summary.json").read_text())
    assert summary["steps"] == 3
    assert sum(summary["shares"].values()) + summary["idle"] == pytest.approx(1)
    assert {"convolution", "norm", "attention", "optimizer"} <= set(summary["shares"])
    assert set(summary["rooms"]) == set(ROOMS)
    text = (run / "summary.txt").read_text()
    assert "steps-2-4: trace" in text
    assert "convolutions" in text


def test_a_resumed_run_may_be_profiled_otherwise(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, steps=2)
    assert not find_changes(config_from_tree(tree), config_from_tree({**tree, "profile": {"steps": [2, 3]}}))


def test_nothing_is_written_unasked(tmp_path: Path) -> None:
    run_tiny({**tiny_tree(tmp_path, steps=2), "profile": {"slow_factor": 0}})
    assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_while_it_is_traced(tmp_path: Path) -> None:
    run_tiny({**tiny_tree(tmp_path, steps=3), "profile": {"steps": [0, 99]}})
    assert json.loads((tmp_path / "profile" / "summary.json").read_text())["steps"] == 3


def test_a_profile_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny_tree(tmp_path / "run", 4) | {"profile": {"steps": [1, 2]}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("in the way")
    assert len([line for line in run_tiny(tree) if "loss" in line]) == 4
    assert capsys.readouterr().out.count("warning: profile/ could not be written") == 1


def go(profiler: Profiler, steps: range) -> None:
    """As the only process of a run."""
    for step in steps:
        profiler.hear(profiler.word())
        profiler.begin_step(step)
        torch.ones(8).sum()
        profiler.end_step()


def test_a_file_asks_for_five_steps(alone: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soda_fast.training.profiler._LOOK_EVERY_S", 0)
    said: list[str] = []
    profiler = Profiler(ProfileConfig(steps=(90, 95), slow_factor=0), tmp_path, alone, said.append, nullcontext)
    go(profiler, range(3))
    (tmp_path / "profile.request").touch()
    go(profiler, range(3, 10))
    assert not (tmp_path / "profile.request").exists()
    names = annotations(tmp_path / "profile" / "steps-4-8" / "rank0.pt.trace.json.gz")
    assert names == {f"ProfilerStep#{step}" for step in range(4, 9)}
    go(profiler, range(10, 97))
    assert sorted(path.name for path in (tmp_path / "profile").glob("steps-*")) == ["steps-4-8", "steps-90-95"]
    assert said[0] == "profiling steps 4 to 8"


def test_slow_steps_are_looked_into_three_times(
    alone: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    profiler = Profiler(ProfileConfig(), tmp_path, alone, said.append, nullcontext)
    monkeypatch.setattr(SlowSteps, "end", lambda self: self.judge(0.4 if step % 20 == 15 else 0.1))
    for step in range(100):
        go(profiler, range(step, step + 1))
    assert len(list((tmp_path / "profile").glob("steps-*"))) == 3
    assert said[0] == "a step took 0.400 s, 4.0 times the median of 0.100 s"


def test_what_is_a_slow_step() -> None:
    steps = SlowSteps(3.0, torch.device("cpu"))
    assert [steps.judge(seconds) for seconds in (5.0, *[0.1] * 20, 0.29)] == [None] * 22
    assert steps.judge(0.31) is not None
    quick = SlowSteps(3.0, torch.device("cpu"))
    assert [quick.judge(seconds) for seconds in (*[0.001] * 20, 0.02)] == [None] * 21
    never = SlowSteps(0.0, torch.device("cpu"))
    assert [never.judge(seconds) for seconds in (*[0.1] * 20, 9.0)] == [None] * 21


def train_and_signal(path: Path) -> None:
    """Process 1 is told in the second step, numbered 1, that a capture is wanted."""
    with start_processes("cpu") as processes:
        trainer = trainer_of(tiny_tree(path, steps=10), processes)
        real = trainer.metrics.advance

        def advance(images: int) -> None:
            real(images)
            if processes.rank == 1 and trainer.images_seen == 2 * BATCH:
                os.kill(os.getpid(), signal.SIGUSR2)

        trainer.metrics.advance = advance  # type: ignore[method-assign]
        trainer.train(StopRequest())
        trainer.checkpoints.close()


def test_a_signal_to_one_process_is_heard_by_all(tmp_path: Path) -> None:
    """Its word travels during step 2, and step 3 warms up."""
    run_in_processes(train_and_signal, 2, tmp_path)
    folder = tmp_path / "profile" / "steps-4-8"
    for rank in (0, 1):
        traced = annotations(folder / f"rank{rank}.pt.trace.json.gz") - set(ROOMS)
        assert traced == {f"ProfilerStep#{step}" for step in range(4, 9)}, rank


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with span("decoder"):
            return 2 * x


@pytest.mark.slow
def test_tracing_compiles_nothing_anew(alone: Processes, tmp_path: Path) -> None:
    module = Doubling()
    compile_method(module, "forward")  # a graph break in the span would be an error
    module(torch.ones(2))
    profiler = Profiler(ProfileConfig(steps=(1, 2), slow_factor=0), tmp_path, alone, lambda text: None, nullcontext)
    with torch.compiler.set_stance("fail_on_recompile"):
        for step in range(4):
            profiler.begin_step(step)
            assert module(torch.ones(2)).tolist() == [2.0, 2.0]
            profiler.end_step()
    assert (tmp_path / "profile" / "summary.txt").exists()


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [({"steps": [25, 20]}, "as [20, 25]"), ({"slow_factor": 1.0}, "more than 1"), ({"steps": 3}, "3")],
)
def test_mistakes(tmp_path: Path, keys: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match="profile") as error:
        config_from_tree({**tiny_tree(tmp_path, steps=2), "profile": keys})
    assert remedy in str(error.value)


@pytest.mark.gpu
def test_a_profile_on_a_gpu(tmp_path: Path) -> None:
    run_tiny({**tiny_tree(tmp_path, steps=6), "profile": {"steps": [3, 4]}})
    summary = json.loads((tmp_path / "profile" / "summary.json").read_text())
    assert summary["device"] == "cuda"
    assert summary["shares"]["convolution"] > 0
    assert {"encoder", "decoder", "backward", "optimizer", "ema"} <= set(summary["rooms"])
    assert (tmp_path / "profile" / "steps-3-4" / "rank0.memory.pickle").stat().st_size > 0
