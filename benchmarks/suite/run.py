"""The parts one after the other, within the minutes that there are."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import PartResult, Record, Status, write_record
from benchmarks.suite.parts import Part
from benchmarks.suite.process import Ended, read_result, run

LEAST_S = 10.0
"""A part is not started for less."""


@dataclass(frozen=True)
class Budget:
    """The time there is. now: a clock in seconds."""

    end: float
    now: Callable[[], float] = time.monotonic

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - self.now()


def run_suite(record: Record, parts: Sequence[Part], budget: Budget, path: Path, tell: Callable[[str], None]) -> None:
    """Run `parts` and write `record` to `path` before the first and after each: an interruption loses one at most.

    A part gets its own limit, or what is left of the budget if that is less.
    """
    record.parts = [PartResult(part.name, part.title) for part in parts]
    write_record(path, record)
    for part, found in zip(parts, record.parts, strict=True):
        if part.missing:
            found.status, found.reason = "left out", part.missing
        elif budget.left < LEAST_S:
            found.reason = "the suite's minutes were over"
        else:
            limit_s = min(part.limit_s, budget.left)
            tell(f"{part.title} (at most {limit_s:.0f} s)")
            try:
                _run_part(part, found, limit_s, path)
            finally:
                write_record(path, record)
        tell(f"  {found.status}{': ' + found.reason if found.reason else ''}, {found.seconds:.0f} s")
    write_record(path, record)


def _run_part(part: Part, found: PartResult, limit_s: float, path: Path) -> None:
    # Beside the record, so that it is still there if the suite itself is killed.
    answer = path.with_name(f"{part.name}.part.json")
    answer.unlink(missing_ok=True)
    command = part.command(answer)
    found.command = shlex.join(command).replace(str(answer), "RESULT.json")
    ended = None
    try:
        ended = run(command, limit_s, path.with_name("log.txt"), part.environment)
    finally:
        found.result = read_result(answer)
        if ended is None:
            found.status, found.reason = "cut off", "the suite was interrupted"
        else:
            found.seconds, found.log = ended.seconds, ended.log
            found.status, found.reason = _judge(ended, found.result is not None, limit_s)
    answer.unlink(missing_ok=True)


def _judge(ended: Ended, has_result: bool, limit_s: float) -> tuple[Status, str]:
    if ended.code is None:
        kept = "what it had is kept" if has_result else "it had written nothing"
        return "cut off", f"did not end within {limit_s:.0f} s; {kept}"
    if ended.code:
        return "failed", f"exit status {ended.code}"
    if not has_result:
        return "failed", "it wrote no result"
    return "measured", ""
