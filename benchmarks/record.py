"""What a benchmark run leaves: one JSON file that is read by the report, the comparison and people.

`python -m benchmarks.record` prints its JSON schema.
"""

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from benchmarks.json_file import write_json

Status = Literal["measured", "failed", "cut off", "left out", "not reached"]
_STRICT = ConfigDict(extra="forbid")


@dataclass(config=_STRICT)
class PartResult:
    """One part of a suite.

    status: measured: it ended as it should; failed: it ended with an error; cut off: its time was over; left out:
    `reason` says why it was not started; not reached: the suite's time was over. command: what was run. seconds: how
    long it took. log: its last lines. result: what it had written, also when it failed or was cut off.
    """

    name: str
    title: str
    status: Status = "not reached"
    reason: str = ""
    command: str = ""
    seconds: float = 0.0
    log: str = ""
    result: dict[str, Any] | None = None


@dataclass(config=_STRICT)
class Record:
    """One run of the suite.

    started: UTC, ISO 8601. machine: the name of its folder in the ledger. environment: versions, GPU, clocks, commit.
    small: sizes that only show that the parts work; no statement about speed rests on them.
    """

    started: str
    machine: str
    device: Literal["cuda", "cpu"]
    small: bool
    command: str
    minutes: float
    environment: dict[str, Any]
    parts: list[PartResult] = field(default_factory=list)
    format: Literal["soda_fast benchmark record 1"] = "soda_fast benchmark record 1"

    def part(self, name: str) -> PartResult | None:
        """The part of that name."""
        return next((part for part in self.parts if part.name == name), None)

    def result(self, name: str) -> dict[str, Any]:
        """What a part wrote; empty if it wrote nothing."""
        part = self.part(name)
        return (part.result if part else None) or {}


_RECORDS = TypeAdapter(Record)


def json_schema() -> dict[str, Any]:
    """The schema that every record follows."""
    return _RECORDS.json_schema()


def write_record(path: Path, record: Record) -> None:
    """The whole record, or what was there before."""
    write_json(path, asdict(record))


def read_record(path: Path) -> Record:
    """A record from its file.

    Raises:
        ValueError: it is not one; names the file and the first field that is wrong.
    """
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        raise ValueError(f"{path} is not a benchmark record: {where}: {first['msg']}") from error


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
