"""The benchmarks' clock, and quartiles that were measured."""

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks import kernels, timing
from benchmarks.compare import paired_ratio
from benchmarks.ladder.measure import rates
from benchmarks.measurements import measurements
from benchmarks.record import PartResult, Record
from benchmarks.timing import spread, timed, waiter
from benchmarks.train_step import measure

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stands still but for what is added to it."""
    now = 0.0

    def add(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    return add


def test_quartiles_lie_within_what_was_measured() -> None:
    assert spread([1.0, 10.0]) == (3.25, 5.5, 7.75)
    assert spread([7.0]) == (7.0, 7.0, 7.0)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


def test_whoever_has_few_figures_has_quartiles_within_them(clock: Callable[[float], None]) -> None:
    seconds = iter([5.0, 1.0, 10.0])  # the first warms up
    step = measure(lambda: clock(next(seconds)), CPU, steps=2, warmup_steps=1)
    assert (step.lower_quartile_s, step.median_s, step.upper_quartile_s) == (3.25, 5.5, 7.75)
    rate = rates([1.0, 0.1], batch=1)
    assert (rate.lower_quartile, rate.upper_quartile) == pytest.approx((3.25, 7.75))
    pair = paired_ratio("step", [(1.0, 1.0), (1.0, 10.0)])
    assert (pair.lower, pair.value, pair.upper) == (3.25, 5.5, 7.75)
    seconds = iter([9.0, 1.0, 2.0, 12.0])  # one call, then three rounds
    call = kernels.time_calls([lambda: clock(next(seconds))], CPU)
    assert (call.lower_quartile, call.median, call.upper_quartile) == pytest.approx((1.5e6, 2e6, 7e6))


@pytest.mark.parametrize(
    ("part", "result"),
    [
        ("training", {"metrics": [{"images_per_second": 10.0}, {"images_per_second": 1.0}]}),
        ("evaluation", {"knn": {"seconds": {"ours": [1.0, 10.0]}}}),
        ("probe_costs", {"encoding": {"fp32": [10.0, 1.0]}}),
    ],
)
def test_figures_of_a_record_have_such_quartiles_too(part: str, result: dict[str, object]) -> None:
    record = Record("2026-01-02T03:04:05+00:00", "test", "cpu", True, "", 9.0, {})
    record.parts = [PartResult(part, part, "measured", result=result)]
    (found,) = measurements(record).values()
    assert (found.lower, found.median, found.upper) == (3.25, 5.5, 7.75)


def test_what_comes_before_an_action_and_its_warm_up_are_not_timed(clock: Callable[[float], None]) -> None:
    order: list[str] = []

    def act() -> None:
        order.append("action")
        clock(float(len(order)))

    def before() -> None:
        order.append("before")
        clock(100.0)

    found = timed(act, lambda: order.append("wait"), times=2, warmup=1, before=before)
    assert order == ["before", "wait", "action", "wait"] * 3
    assert found == [7.0, 11.0]


def test_a_gpus_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(timing.torch.cuda, "synchronize", waited.append)
    waiter(torch.device("cuda", 1))()
    waiter(CPU)()
    assert waited == [torch.device("cuda", 1)]
