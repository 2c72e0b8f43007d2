"""Measure one rung, in the process that calls."""

import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

from benchmarks.ladder.reference_step import ReferenceStep
from benchmarks.ladder.rungs import Recipe, Rung, on_device
from benchmarks.ladder.timeline import PHASES, Steps, Timeline
from benchmarks.ladder.trainer_step import TrainerStep
from benchmarks.ladder.worker_loader import WorkerLoader
from benchmarks.synthetic import synthetic_parts
from benchmarks.timing import spread
from soda_fast.config import Config
from soda_fast.data import Batch, Dataset
from soda_fast.parallel import Processes
from soda_fast.training.assembly import open_loader

WINDOWS = 8


@dataclass(frozen=True)
class Limits:
    """seconds: of measuring, after the warm-up, but at least `min_steps`. warmup_steps: beside those that use up what
    a loader has prepared before the first step."""

    seconds: float = 15.0
    min_steps: int = WINDOWS
    warmup_steps: int = 4


@dataclass(frozen=True)
class Rates:
    """Images a second: median and quartiles over `windows` spans of `steps_per_window` steps, and over all of them.

    A loader of many workers delivers in bursts, which single steps would show as speed.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    overall: float
    windows: int
    steps_per_window: int


class Loader(Protocol):
    """Where parts of a batch come from."""

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class OnDevice:
    """The same random parts again and again: a loader that costs nothing."""

    def __init__(self, parts: list[Batch]) -> None:
        self._parts, self._number = parts, 0

    def __next__(self) -> Batch:
        self._number += 1
        return self._parts[(self._number - 1) % len(self._parts)]

    def close(self) -> None:
        """Nothing to free."""


class Step(Protocol):
    """A training step on a batch in parts."""

    def step(self, parts: list[Batch]) -> None: ...


def measure_rung(
    rung: Rung,
    config: Config,
    dataset: Dataset,
    processes: Processes,
    limits: Limits,
    real_loader: bool = True,
) -> dict[str, Any]:
    """What was measured of one rung, as JSON holds it; without name, FLOPs and ratios. Sets cuDNN's switches.

    Raises:
        ValueError: the data set is smaller than a batch, or DALI is missing where the rung is about DALI.
        torch.OutOfMemoryError: the batch does not fit.
    """
    device = processes.device
    recipe, notes = on_device(rung.recipe, device)
    torch.backends.cudnn.deterministic = not recipe.autotuned
    torch.backends.cudnn.benchmark = recipe.autotuned
    if not recipe.own_networks and config.train.accumulate > 1:
        config = replace(config, train=replace(config.train, accumulate=1))
        notes.append("the batch in one part: the reference does not accumulate")
    timeline = Timeline(device)
    step = make_step(config, dataset, recipe, processes, timeline)
    loader, queued = make_loader(config, dataset, recipe, processes, real_loader)
    try:
        warmup = limits.warmup_steps + queued
        steps = time_steps(step, loader, config.train.accumulate, timeline, limits, warmup)
        host_s = host_seconds(step, loader, config.train.accumulate, timeline)
    finally:
        loader.close()
    batch = config.train.global_batch_images
    return {
        "notes": notes,
        "batch_images": batch,
        "images_per_second": asdict(rates(steps.seconds, batch)),
        "step_s": statistics.median(steps.seconds),
        "host_s": host_s,
        "phase_s": {phase: statistics.fmean(steps.phases[phase]) for phase in PHASES},
        "data_wait_share": sum(steps.phases["data"]) / sum(steps.seconds),
        "steps": len(steps.seconds),
        "warmup_steps": warmup,
        "peak_memory_gib": peak_memory_gib(device),
        "peak_memory_is": "allocated on the GPU" if device.type == "cuda" else "resident, of this process",
    }


def make_step(config: Config, dataset: Dataset, recipe: Recipe, processes: Processes, timeline: Timeline) -> Step:
    """The step of a recipe."""
    if recipe.own_networks:
        return TrainerStep(config, dataset, recipe, processes, timeline)
    return ReferenceStep(config, dataset, recipe, processes, timeline)


def make_loader(
    config: Config, dataset: Dataset, recipe: Recipe, processes: Processes, real: bool
) -> tuple[Loader, int]:
    """The loader of a recipe, and how many steps it may have prepared before the first is taken."""
    device, accumulate = processes.device, config.train.accumulate
    if not real:
        return OnDevice(synthetic_parts(config, device)), 0
    if recipe.loader in ("one worker", "workers"):
        part = config.train.global_batch_images // accumulate
        loader = WorkerLoader(config, dataset, part, device, one_worker=recipe.loader == "one worker")
        return loader, loader.queued_batches // accumulate
    if recipe.loader == "dali":
        config = replace(config, data=replace(config.data, backend="dali"))
    if recipe.loader == "tensors":
        config = replace(config, data=replace(config.data, kernels="pytorch"))
    return open_loader(config, dataset, processes, 0), config.data.prefetch_batches


def time_steps(
    step: Step, loader: Loader, accumulate: int, timeline: Timeline, limits: Limits, warmup_steps: int
) -> Steps:
    """Warm up, then run steps until the time is over. Within, the device is never waited for by the clock."""
    for _ in _steps(step, loader, accumulate, timeline, warmup_steps):
        pass
    timeline.read()  # waits, so that no warm-up runs on into the measurement
    timeline.restart()
    start = time.perf_counter()
    for number in _steps(step, loader, accumulate, timeline, None):
        if number >= limits.min_steps and time.perf_counter() - start >= limits.seconds:
            break
    return timeline.read()


def host_seconds(step: Step, loader: Loader, accumulate: int, timeline: Timeline) -> float:
    """What the host needs to hand a step to the device: the least of three that each found the device idle.

    Where it is as long as a step, the device waits for the host, or the recipe makes the host wait for the device.
    """
    seconds = []
    for _ in range(3):
        parts = [next(loader) for _ in range(accumulate)]
        timeline.read()
        start = time.perf_counter()
        step.step(parts)
        seconds.append(time.perf_counter() - start)
        timeline.end_step()
    return min(seconds)


def _steps(step: Step, loader: Loader, accumulate: int, timeline: Timeline, count: int | None) -> Iterator[int]:
    number = 0
    while count is None or number < count:
        parts = [next(loader) for _ in range(accumulate)]
        timeline.end("data")
        step.step(parts)
        timeline.end_step()
        number += 1
        yield number


def rates(seconds: list[float], batch: int) -> Rates:
    """Images a second from the seconds of consecutive steps."""
    length = max(1, len(seconds) // WINDOWS)
    windows = [sum(seconds[start : start + length]) for start in range(0, len(seconds) - length + 1, length)]
    found = [length * batch / window for window in windows]
    lower, median, upper = spread(found)
    return Rates(median, lower, upper, len(seconds) * batch / sum(seconds), len(found), length)


def peak_memory_gib(device: torch.device) -> float:
    """Since the process began: what PyTorch has allocated on the GPU; on a CPU what the process had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
