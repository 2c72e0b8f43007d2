"""Compiled training: eager training's losses, nothing compiled after the first step, and nothing twice in two runs."""

import os
from pathlib import Path

import pytest
import torch
from spawn import run_in_processes
from torch import nn
from training.test_paper import STEPS, assert_close, tree
from training.tiny import losses, run_tiny

from soda_fast.parallel.compiling import compile_method


def train(path: Path, compiled: bool) -> None:
    """With the paper's options, whose blocks are the plain ones and more, and with dropout.

    At one resolution: what takes the time is the C++ compiler, graph by graph.
    """
    found = tree(path, compile=compiled)
    found["model"]["encoder"] |= {"widths": [8], "depths": [1]}
    found["model"]["decoder"] |= {"multipliers": [1], "attention": [True], "dropout": 0.1}
    found["diffusion"]["section_drop_probability"] = [0.1, 0.3]
    found["sampling"]["guidance"] = [0.1, 0.3]
    run_tiny(found)


def compiled_run(path: Path, cache: Path) -> dict[str, int]:
    """Train, and return what the compiler counted."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    train(path, compiled=True)
    counters = torch._dynamo.utils.counters
    return {**counters["stats"], **counters["aot_autograd"]}


@pytest.mark.slow
def test_compiled_equals_eager_and_the_next_run_finds_what_was_compiled(tmp_path: Path) -> None:
    train(tmp_path / "eager", compiled=False)
    (first,) = run_in_processes(compiled_run, 1, tmp_path / "first", tmp_path / "cache")
    assert_close(losses(tmp_path / "first"), losses(tmp_path / "eager"))
    # Encoder: stem and stage. Decoder: time embedding and the blocks. All of them in the first of STEPS steps.
    assert first["unique_graphs"] == first["autograd_cache_miss"] > 5
    assert STEPS > 1
    (second,) = run_in_processes(compiled_run, 1, tmp_path / "second", tmp_path / "cache")
    assert second["unique_graphs"] == second["autograd_cache_hit"] == first["unique_graphs"]
    assert second.get("autograd_cache_miss", 0) == 0


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_a_second_compilation_of_a_settled_method_is_an_error() -> None:
    module = Doubling()
    compile_method(module, "forward")
    module(torch.ones(2))
    with torch.compiler.set_stance("fail_on_recompile"):
        assert module(torch.zeros(2)).tolist() == [0.0, 0.0]
        with pytest.raises(RuntimeError, match="recompile"):
            module(torch.ones(3))
