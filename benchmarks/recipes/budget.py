"""From a budget to a number of images, an arm at a time."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.recipes.cell import Cell, run_cell
from benchmarks.recipes.study import Budget
from benchmarks.recipes.trainings import Trainings
from soda_fast.config import Config
from soda_fast.flops import count_flops

CALIBRATION_STEPS = 24


def images_within(budget: Budget, config: Config, measure_rate: Callable[[], float]) -> int:
    """Images that fit the budget, in whole batches, at least one.

    Args:
        budget: one of its fields is given.
        config: of the arm.
        measure_rate: images a second of the arm's training here.
    """
    if budget.images is not None:
        images = float(budget.images)
    elif budget.flops is not None:
        images = budget.flops / count_flops(config).forward_backward
    else:
        assert budget.minutes is not None
        images = 60 * budget.minutes * measure_rate()
    batch = config.train.global_batch_images
    return max(1, int(images // batch)) * batch


def measured_rate(cell: Cell, batch: int, threads: int, trainings: Trainings) -> float:
    """Images a second of a short training of the arm, its first third (compilation, caches) left out.

    Args:
        cell: the run directory and the length among its overrides are replaced.
        batch: images of a step, as the arm has it.
        threads: of the training.
        trainings: among which it is.

    Raises:
        ValueError: it fails; with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "rate"
        short = [f"run.dir={run}", f"train.images={CALIBRATION_STEPS * batch}", f"train.log_every_images={batch}"]
        short += ["evaluation.during=none", "sampling.steps=1", "sampling.images=1"]
        outcome = run_cell(replace(cell, run=run, overrides=(*cell.overrides, *short)), threads, trainings)
    if outcome.problem:
        raise ValueError(f"arm {cell.arm.name!r} cannot be timed: {outcome.problem}")
    rates = [line["images_per_second"] for line in outcome.metrics if "images_per_second" in line]
    steady = rates[len(rates) // 3 :]
    return len(steady) / sum(1 / rate for rate in steady)
