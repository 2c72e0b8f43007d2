"""Compiled training: the recorded losses, nothing compiled after the first step, and nothing twice in two runs."""

import os
from pathlib import Path

import pytest
import torch
from spawn import run_in_processes
from torch import nn
from training.test_strategies import STEPS, assert_as_recorded, tree
from training.tiny import run_tiny

from soda_fast.parallel.compiling import compile_method


def compiled_run(path: Path, cache: Path) -> dict[str, int]:
    """Train, and return what the compiler counted."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    run_tiny(tree(path, {"perf": {"compile": True}}))
    counters = torch._dynamo.utils.counters
    return {**counters["stats"], **counters["aot_autograd"]}


@pytest.mark.slow
def test_compiled_equals_eager_and_the_next_run_finds_what_was_compiled(tmp_path: Path) -> None:
    (first,) = run_in_processes(compiled_run, 1, tmp_path / "first", tmp_path / "cache")
    assert_as_recorded(tmp_path / "first")
    # Encoder: stem and two stages. Decoder: time embedding and the blocks. All of them in the first of STEPS steps.
    assert first["unique_graphs"] == first["autograd_cache_miss"] > 8
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
