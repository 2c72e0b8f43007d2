"""The kernel benchmark's contestants and sums. Only its clock needs a GPU."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from benchmarks import kernels
from benchmarks.gpu_timing import Microseconds, rotations
from benchmarks.kernel_shapes import NormShape, decoder_norms, make_inputs
from benchmarks.kernel_sweep import candidates
from soda_fast.config import load_config

SHAPE = NormShape(4, 32, 8, "silu", 0.0, True, modulated=True)


def run_once(calls: Sequence[Callable[[], object]]) -> Microseconds:
    start = time.perf_counter()
    for call in calls:
        call()
    taken = 1e6 * (time.perf_counter() - start) / len(calls)
    return Microseconds(taken, taken, taken)


JOINED = NormShape(4, 32, 8, "silu", 0.0, False, skip=16)


@pytest.mark.parametrize("shape", [SHAPE, JOINED], ids=str)
def test_the_contestants_compute_the_same(shape: NormShape) -> None:
    inputs = make_inputs(shape, 2, torch.float32, True, "cpu")
    del inputs["gradients"]
    fused, eager = (kernels.providers()[name](**inputs) for name in ("triton", "eager"))
    for found, wanted in zip(fused, eager, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "time_calls", run_once)
    monkeypatch.setattr(kernels, "rotations", lambda size: 2)
    contestants = {name: function for name, function in kernels.providers().items() if name != "compiled"}
    monkeypatch.setattr(kernels, "providers", lambda: contestants)
    rows = [
        row
        for shape in (SHAPE, JOINED)
        for row in kernels.compare("tiny", shape, 3, 2, torch.float32, True, 1e9, torch.device("cpu"))
    ]
    tensor = 2 * 32 * 16 * 4
    assert [row.bytes // tensor for row in rows] == [2, 3, 2, 3, 3, 4, 3, 4]
    for row in rows:
        assert row.share == pytest.approx(row.bytes / (row.time.median * 1e-6) / 1e9)
        assert row.provider in kernels.format_row(row)


def test_a_contestant_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> tuple[torch.Tensor, ...]:
        raise torch.OutOfMemoryError("no memory for this")

    monkeypatch.setattr(kernels, "time_calls", run_once)
    monkeypatch.setattr(kernels, "rotations", lambda size: 2)
    monkeypatch.setattr(kernels, "providers", lambda: {"triton": partial(kernels.apply, "triton"), "eager": broken})
    rows = list(kernels.compare("tiny", SHAPE, 3, 2, torch.float32, True, 1e9, torch.device("cpu")))
    assert {row.provider for row in rows} == {"triton"}
    assert "eager failed: no memory for this" in capsys.readouterr().err
    assert "times_eager" not in kernels.summarise(rows, {row.config: row.count for row in rows})[0]


def test_the_summary_weights_by_bytes_and_uses() -> None:
    def row(shape: str, count: int, provider: str, direction: str, median: float, share: float) -> kernels.Row:
        taken = Microseconds(median, median, median)
        return kernels.Row("c", shape, count, 64, "channels_last", provider, direction, taken, 0, share)

    rows = [
        row("a", 1, "triton", "forward", 10.0, 0.9),
        row("b", 3, "triton", "forward", 20.0, 0.5),
        row("a", 1, "triton", "backward", 30.0, 0.8),
        row("b", 3, "triton", "backward", 10.0, 0.4),
        row("a", 1, "eager", "forward", 100.0, 0.1),
        row("b", 3, "eager", "backward", 10.0, 0.1),
    ]
    (summary,) = kernels.summarise(rows, {"c": 16})
    assert summary["measured_uses"] == pytest.approx((1 + 3) / 16)
    assert summary["triton_forward_share"] == pytest.approx((1 * 10 * 0.9 + 3 * 20 * 0.5) / 70)
    assert summary["times_eager"] == pytest.approx((100 + 30) / (70 + 60))
    assert summary["eager_forward_share"] == pytest.approx(0.1)
    assert "times eager PyTorch" in kernels.format_summary(summary)


def test_shapes_that_move_most_come_first() -> None:
    norms = decoder_norms(load_config("configs/cifar10.yaml"))
    moved = [count * shape.channels * shape.size**2 for shape, count in sorted(norms.items(), key=kernels.most_bytes)]
    assert moved == sorted(moved, reverse=True)


def test_the_shapes_of_the_cifar_decoder() -> None:
    norms = decoder_norms(load_config("configs/cifar10.yaml"))
    assert sum(norms.values()) == 51
    assert norms[NormShape(32, 128, 32, "silu", 0.1, True, modulated=True)] == 5


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_sweep_tries_whole_and_looped(direction: str) -> None:
    found = list(candidates(direction, NormShape(32, 128, 32, "silu", 0.1, True), 2))
    assert {tiling.whole for tiling in found} == {True, False}
    assert all(tiling.warps * tiling.registers * 32 <= 65536 for tiling in found)
    assert len(set(found)) == len(found) < 100


def test_inputs_are_rotated_beyond_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert rotations(2**20) == 256
    assert rotations(2**24) * 2**24 >= 2**29
    assert rotations(2**40) == 2
