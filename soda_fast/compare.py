"""`soda-fast compare RUN RUN ...`: the evaluations of several runs in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soda_fast.evaluation.measurement import Measurement, format_measurements
from soda_fast.evaluation.report import HELD_OUT, SCHEMA, TEST_SPLIT, Row, format_table, table_rows
from soda_fast.evaluation.result import Result


def compare(paths: Sequence[Path]) -> str:
    """A table of all encoders in the given runs' evaluations, and what is not equal between them.

    Args:
        paths: run directories, of which every evaluation*.json counts but those of held-out images, or such files.

    Raises:
        ValueError: a path holds no evaluation, or one of another layout.
    """
    files = [file for path in paths for file in _files(path)]
    reports = [(file, _read(file)) for file in files]
    rows = [row for file, report in reports for row in _rows(_name(file), report)]
    measured = [one for file, report in reports for one in _measured(_name(file), report).items()]
    tables = [format_table(rows)] * bool(rows) + [format_measurements(dict(measured))] * bool(measured)
    return "\n".join(["\n\n".join(tables), *_differences(reports)])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob("evaluation*.json") if not file.stem.endswith(HELD_OUT))
    if not found:
        raise ValueError(f"{path} holds no evaluation.json; run soda-fast evaluate {path}")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        report: Any = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no evaluation: {error}") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise ValueError(f"{file} is no evaluation of this version (schema {SCHEMA}); run soda-fast evaluate again")
    return report


def _rows(name: str, report: dict[str, Any]) -> list[Row]:
    results: dict[str, list[Result]] = {}
    for entry in report["results"]:
        fields = {key: entry[key] for key in ("protocol", "features", "setting", "transform", "accuracy")}
        result = Result(**fields, skipped_ks=tuple(entry["skipped_ks"]), per_seed=tuple(entry["per_seed"]))
        results.setdefault(f"{name} {entry['encoder']}", []).append(result)
    return table_rows(results)


def _measured(name: str, report: dict[str, Any]) -> dict[str, list[Measurement]]:
    measured: dict[str, list[Measurement]] = {}
    for entry in report["measures"]:
        fields = {key: value for key, value in entry.items() if key != "encoder"}
        measured.setdefault(f"{name} {entry['encoder']}", []).append(Measurement(**fields))
    return measured


def _differences(reports: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    """A line for each thing in which numbers that stand side by side differ."""
    lines = []
    for key in ("dataset", "tested_on", "dataset_hash", "transform", "versions"):
        # Reports of before it could be anything else do not say what was tested on.
        found = {file: report[key] if key != "tested_on" else report.get(key, TEST_SPLIT) for file, report in reports}
        if len({json.dumps(value, sort_keys=True) for value in found.values()}) > 1:
            lines.append(f"not equal: {key}" + "".join(f"\n  {_name(file)}: {value}" for file, value in found.items()))
    return lines


def _name(file: Path) -> str:
    run, kind = file.parent.name or str(file.parent.resolve().name), file.stem.removeprefix("evaluation")
    return f"{run}{kind}"
