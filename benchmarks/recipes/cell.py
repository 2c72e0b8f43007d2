"""One run of a study: an arm with a seed. An ordinary training, which the same command resumes."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.recipes.study import Arm
from benchmarks.recipes.trainings import Trainings
from benchmarks.suite.process import last_line, tail
from soda_fast.files import write_atomically


@dataclass(frozen=True)
class Cell:
    """What is to be run: the configuration's file and all overrides, the run directory and the seed among them."""

    arm: Arm
    seed: int
    run: Path
    config: Path
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    problem: empty, or the last line that the training said, of an error if there is one. metrics: of metrics.jsonl.
    """

    arm: str
    seed: int
    problem: str
    wall_seconds: float
    metrics: list[dict[str, float]]


def run_cell(cell: Cell, threads: int, trainings: Trainings) -> Outcome:
    """Train, unless that has been done; a training that was interrupted goes on where it stood."""
    kept = finished(cell)
    if kept is not None:
        return kept
    cell.run.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "soda_fast", "train", str(cell.config), *cell.overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    begin = time.monotonic()
    log = cell.run / "study.log"
    said = log.stat().st_size if log.exists() else 0  # by earlier ones
    code = trainings.run(command, environment, log)
    problem = "" if code == 0 else f"exit {code}: {last_line(tail(log, said))}"
    outcome = Outcome(cell.arm.name, cell.seed, problem, time.monotonic() - begin, read_metrics(cell.run))
    if not problem:
        note = {"overrides": list(cell.overrides), "wall_seconds": outcome.wall_seconds}
        write_atomically(cell.run / "study.json", json.dumps(note).encode())
    return outcome


def finished(cell: Cell) -> Outcome | None:
    """The outcome of a training that has ended, of these very overrides."""
    try:
        note: dict[str, Any] = json.loads((cell.run / "study.json").read_text())
    except (OSError, ValueError):
        return None
    if note.get("overrides") != list(cell.overrides):
        return None
    return Outcome(cell.arm.name, cell.seed, "", note["wall_seconds"], read_metrics(cell.run))


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Whole lines of metrics.jsonl: a training may be writing one."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One JSON line a run."""
    write_atomically(path, "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes).encode())
