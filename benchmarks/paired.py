"""Two training steps timed by turns, each time in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.process import last_line

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Contestant:
    """A checkout and a configuration in it."""

    folder: Path
    config: str
    overrides: Sequence[str]


def time_pairs(a: Contestant, b: Contestant, pairs: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of a step, the median of `steps`, for both and `pairs` times; who goes first alternates.

    Raises:
        ValueError: one of them failed; with its last line.
    """
    found = []
    for number in range(pairs):
        first, second = (a, b) if number % 2 == 0 else (b, a)
        times = {id(one): _time(one, steps) for one in (first, second)}
        found.append((times[id(a)], times[id(b)]))
    return found


def _time(contestant: Contestant, steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "benchmarks.train_step", "--config", contestant.config]
        command += [*contestant.overrides, "--steps", str(steps), "--json", str(answer)]
        path = os.pathsep.join([str(contestant.folder), str(contestant.folder / "kernels")])
        done = subprocess.run(
            command,
            cwd=contestant.folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"the training step in {contestant.folder} failed: {last_line(done.stderr)}")
        return float(json.loads(answer.read_text())["timing"]["median_s"])


@contextmanager
def checked_out(revisions: Sequence[str]) -> Iterator[list[Path]]:
    """A folder for each git revision, removed at the end.

    Raises:
        ValueError: git does not know one of them.
    """
    with tempfile.TemporaryDirectory() as parent:
        folders = [Path(parent) / f"revision{number}" for number in range(len(revisions))]
        try:
            for revision, folder in zip(revisions, folders, strict=True):
                done = _git("worktree", "add", "--detach", str(folder), revision)
                if done.returncode:
                    raise ValueError(f"revision {revision}: {done.stderr.strip().splitlines()[-1]}")
            yield folders
        finally:
            for folder in folders:
                _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
