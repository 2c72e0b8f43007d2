"""The benchmarks' clock: actions timed with the device's work in them, and what several times amount to."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch


def waiter(device: torch.device) -> Callable[[], None]:
    """What returns when `device` has finished; a CPU has when a call returns."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else _nothing


def _nothing() -> None:
    """Also what comes before an action that nothing comes before."""


def timed(
    action: Callable[[], object],
    wait: Callable[[], None],
    times: int,
    warmup: int = 0,
    before: Callable[[], object] = _nothing,
) -> list[float]:
    """Seconds of each of `times` calls, one by one, after `warmup` that do not count.

    Args:
        wait: of `waiter`; the clock runs from and to where nothing is left to do.
        before: called ahead of each, outside the clock: a barrier, where processes act together.
    """
    seconds = []
    for _ in range(warmup + times):
        before()
        wait()
        begin = time.perf_counter()
        action()
        wait()
        seconds.append(time.perf_counter() - begin)
    return seconds[warmup:]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile: never outside what was measured; one value is all three."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper
