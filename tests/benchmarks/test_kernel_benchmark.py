"""The kernel benchmark's contestants and sums. Only its clock needs a GPU."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from triton.runtime.errors import PTXASError

from benchmarks import kernels
from benchmarks.ceilings import matrix_rate
from benchmarks.gpu_timing import Microseconds, copy_bandwidth, rotations, time_calls
from benchmarks.kernel_shapes import NormShape, decoder_norms, make_inputs
from benchmarks.kernel_sweep import candidates, largest
from soda_fast.config import load_config

SHAPE = NormShape(4, 32, 8, "silu", 0.0, True, modulated=True)


def run_once(calls: Sequence[Callable[[], object]], device: torch.device) -> Microseconds:
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
    fused, eager = (kernels.PROVIDERS[name]()(**inputs) for name in ("triton", "eager"))
    for found, wanted in zip(fused, eager, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, on a CPU."""
    monkeypatch.setattr(kernels, "time_calls", run_once)
    monkeypatch.setattr(kernels, "rotations", lambda size, device: 2)


def case(shape: NormShape) -> kernels.Case:
    return kernels.Case("tiny", shape, 3, 2, "channels_last")


def contest(shape: NormShape, provider: str) -> list[kernels.Row]:
    return kernels.contest(case(shape), provider, torch.float32, 1e9, torch.device("cpu"))


@pytest.mark.usefixtures("quick")
def test_rows() -> None:
    rows = [row for shape in (SHAPE, JOINED) for name in ("triton", "eager") for row in contest(shape, name)]
    tensor = 2 * 32 * 16 * 4
    assert [row.bytes // tensor for row in rows] == [2, 3, 2, 3, 3, 4, 3, 4]
    for row in rows:
        assert row.share == pytest.approx(row.bytes / (row.time.median * 1e-6) / 1e9)
        assert row.provider in kernels.format_row(row)
    whole = kernels.step_bytes({SHAPE: 3, JOINED: 3}, torch.float32)
    (summary,) = kernels.summarise(rows, {"tiny": whole})
    assert (summary["triton_coverage"], summary["eager_coverage"]) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory for this"), PTXASError("no registers for this")])
def test_a_contestant_that_fails_is_left_out_at_that_shape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Whether it is PyTorch that says so or Triton; and the others go on."""

    def broken(**inputs: Any) -> tuple[torch.Tensor, ...]:
        if "skip" in inputs:
            raise error
        return kernels.apply("triton", **inputs)

    monkeypatch.setitem(kernels.PROVIDERS, "triton", lambda: broken)
    wanted = [(case(shape), name) for name in ("triton", "eager") for shape in (JOINED, SHAPE)]
    kept: list[Any] = []
    kernels.measure_all(wanted, torch.float32, 1e9, torch.device("cpu"), lambda *found: kept.append(found))
    rows, failed = kept[-1]
    assert len(kept) == len(wanted)
    assert {(row.provider, row.shape) for row in rows} == {
        ("triton", str(SHAPE)),
        ("eager", str(SHAPE)),
        ("eager", str(JOINED)),
    }
    (one,) = failed
    assert (one["provider"], one["shape"]) == ("triton", str(JOINED))
    assert f"triton failed: {type(error).__name__}: " in capsys.readouterr().err
    assert "for this" in one["error"]
    (summary,) = kernels.summarise(rows, {"tiny": kernels.step_bytes({SHAPE: 3, JOINED: 3}, torch.float32)})
    assert summary["eager_coverage"] == pytest.approx(1)
    assert summary["triton_coverage"] == pytest.approx(5 / 12)  # of the passes
    ours, theirs = (
        sum(row.time.median for row in rows if (row.provider, row.shape) == (name, str(SHAPE)))
        for name in ("triton", "eager")
    )
    assert summary["times_eager"] == pytest.approx(theirs / ours), "of what both were measured at"


def test_what_tells_most_is_measured_first() -> None:
    """All shapes by our kernel, those of most bytes first; then by rivals; then the next batch."""
    small, large = NormShape(4, 32, 8, "silu", 0.0, True), NormShape(8, 32, 8, "silu", 0.0, True)
    order = list(kernels.contests({"c": {small: 1, large: 3}}, ["channels_last"], [512, 64]))
    assert [(case.batch, name, case.shape) for case, name in order] == [
        (batch, name, shape)
        for batch in (512, 64)
        for name in ("triton", "eager", "compiled")
        for shape in (large, small)
    ]
    assert [case.count for case, _ in order[:2]] == [3, 1]


def test_the_summary_weights_by_bytes_and_uses() -> None:
    def row(shape: str, count: int, provider: str, direction: str, median: float, share: float) -> kernels.Row:
        taken = Microseconds(median, median, median)
        return kernels.Row("c", shape, count, 64, "channels_last", provider, direction, taken, 32, share)

    rows = [
        row("a", 1, "triton", "forward", 10.0, 0.9),
        row("b", 3, "triton", "forward", 20.0, 0.5),
        row("a", 1, "triton", "backward", 30.0, 0.8),
        row("b", 3, "triton", "backward", 10.0, 0.4),
        row("a", 1, "eager", "forward", 100.0, 0.1),
        row("b", 3, "eager", "backward", 10.0, 0.1),
    ]
    (summary,) = kernels.summarise(rows, {"c": 16})
    assert summary["triton_coverage"] == pytest.approx((2 * 1 + 2 * 3) * 32 / 64 / 16)
    assert summary["eager_coverage"] == pytest.approx((1 + 3) * 32 / 64 / 16)
    assert summary["triton_forward_share"] == pytest.approx((1 * 10 * 0.9 + 3 * 20 * 0.5) / 70)
    assert summary["times_eager"] == pytest.approx((100 + 30) / (70 + 60))
    assert summary["eager_forward_share"] == pytest.approx(0.1)
    assert "times eager PyTorch" in kernels.format_summary(summary)


def test_shapes_that_move_most_come_first() -> None:
    norms = decoder_norms(load_config("configs/cifar10.yaml"))
    moved = [
        count * sum(shape.passes.values()) * shape.channels * shape.size**2
        for shape, count in sorted(norms.items(), key=kernels.most_bytes)
    ]
    assert moved == sorted(moved, reverse=True)


def test_a_sweep_begins_with_the_shapes_that_move_most() -> None:
    """Fewer channels can move more, where a skip connection is joined."""
    wider = NormShape(8, 40, 8, "silu", 0.0, True)
    joined = NormShape(8, 32, 8, "silu", 0.0, True, skip=16)
    assert largest({wider: 1, joined: 1}, 1) == [joined]


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


def test_inputs_are_rotated_beyond_the_cache() -> None:
    cuda = torch.device("cuda")
    assert rotations(2**20, cuda) == 256
    assert rotations(2**24, cuda) * 2**24 >= 2**29
    assert rotations(2**40, cuda) == 2


def test_the_device_decides_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU beside a GPU too, which would time an empty graph."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cpu = torch.device("cpu")
    assert rotations(2**20, cpu) == 2
    assert time_calls([lambda: time.sleep(0.001)] * 2, cpu).lower_quartile >= 1000
    assert copy_bandwidth(cpu) > 0
    assert matrix_rate(cpu)["measured_tflops"] > 0
