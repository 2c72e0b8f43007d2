"""The parts one after the other, within the minutes that there are."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import PartResult, Record, Status, read_record, write_record
from benchmarks.suite.parts import Part
from benchmarks.suite.places import without_places
from benchmarks.suite.process import Ended, last_line, read_result, run

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


def run_suite(
    record: Record,
    parts: Sequence[Part],
    budget: Budget,
    path: Path,
    tell: Callable[[str], None],
    show: Callable[[Record], object] = lambda record: None,
    places: Mapping[str, str] | None = None,
) -> None:
    """Run `parts` and write `record` to `path` before and after each, so that an interruption loses nothing that a part
    had written; `recover` finds what a killed suite left.

    A part gets its own limit, and of the budget what those after it cannot use; never more than is left.

    Args:
        tell: gets a line before and after each part.
        show: gets the record after each part that was started.
        places: what the record shall not name, with what stands for it; see `places_of`.
    """
    record.parts = [PartResult(part.name, part.title) for part in parts]
    write_record(path, record)
    for number, (part, found) in enumerate(zip(parts, record.parts, strict=True)):
        if part.missing:
            found.status, found.reason = "left out", part.missing
        elif budget.left < LEAST_S:
            found.reason = "the suite's minutes were over"
        else:
            later = sum(one.limit_s for one in parts[number + 1 :] if not one.missing)
            limit_s = min(max(part.limit_s, budget.left - later), budget.left)
            tell(f"{part.title} (at most {limit_s:.0f} s)")
            try:
                _run_part(part, found, limit_s, record, path)
            finally:
                _forget(found, places or {})
                write_record(path, record)
                answer_of(path, part.name).unlink(missing_ok=True)
            show(record)
        tell(f"  {found.status}{': ' + found.reason if found.reason else ''}, {found.seconds:.0f} s")
    write_record(path, record)


def recover(path: Path, places: Mapping[str, str]) -> Record:
    """The record in a file, completed by what the part had written during which the suite was killed; without places.

    Raises:
        ValueError: it is not a record.
        OSError: it cannot be read.
    """
    record = read_record(path)
    for part in record.parts:
        if part.status == "cut off" and part.result is None:
            part.result = without_places(read_result(answer_of(path, part.name)), places)
    return record


def answer_of(path: Path, name: str) -> Path:
    """Where a part writes while it runs: beside the record, so that it is still there if the suite itself is killed."""
    return path.with_name(f"{name}.part.json")


def _run_part(part: Part, found: PartResult, limit_s: float, record: Record, path: Path) -> None:
    answer = answer_of(path, part.name)
    answer.unlink(missing_ok=True)
    command = [*part.command, "--json", str(answer)]
    found.command = shlex.join(command).replace(str(answer), "RESULT.json")
    found.status, found.reason = "cut off", "the suite was killed"
    write_record(path, record)
    ended = None
    try:
        ended = run(command, limit_s, path.with_name("log.txt"), part.environment)
    finally:
        found.result = read_result(answer)
        if ended is None:
            found.reason = "the suite was interrupted"
        else:
            found.seconds, found.log = ended.seconds, ended.log
            found.status, found.reason = _judge(ended, found.result is not None, limit_s)


def _forget(found: PartResult, places: Mapping[str, str]) -> None:
    found.command, found.reason, found.log, found.result = without_places(
        [found.command, found.reason, found.log, found.result], places
    )


def _judge(ended: Ended, has_result: bool, limit_s: float) -> tuple[Status, str]:
    if ended.code is None:
        kept = "what it had is kept" if has_result else "it had written nothing"
        return "cut off", f"did not end within {limit_s:.0f} s; {kept}"
    if ended.code:
        return "failed", f"exit status {ended.code}: {last_line(ended.log)}"
    if not has_result:
        return "failed", "it wrote no result"
    return "measured", ""
