"""`soda-fast compare RUN RUN ...`: the evaluations of several runs in one table."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soda_fast.evaluation.measurement import Measurement, format_measurements
from soda_fast.evaluation.report import HELD_OUT, SCHEMA, Row, format_table, table_rows
from soda_fast.evaluation.result import Result

_REPORT_KEYS = ("dataset", "tested_on", "dataset_hash", "transform", "features", "seeds", "versions")
_OWN_SETTINGS = frozenset({"k", "seeds", "chosen_learning_rates", "chosen_C", "made_by", "dimensions"})
"""Settings that are an encoder's own, a protocol has several of, or are compared for the whole report."""


def compare(paths: Sequence[Path]) -> str:
    """A table of all encoders in the given runs' evaluations, and what is not equal between them.

    Args:
        paths: run directories, of which every evaluation*.json counts but those of held-out images, or such files.

    Raises:
        ValueError: a path holds no evaluation, or one of another layout.
    """
    files = dict.fromkeys(file for path in paths for file in _files(path))
    reports = {name: _read(file) for file, name in _names(list(files)).items()}
    rows = [row for name, report in reports.items() for row in _rows(name, report)]
    measured = [one for name, report in reports.items() for one in _measured(name, report).items()]
    tables = []
    if rows:
        tables.append(format_table(rows))
    if measured:
        tables.append(format_measurements(dict(measured)))
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
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no evaluation: {error}") from error
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise ValueError(f"{file} is no evaluation of this version (schema {SCHEMA}); run soda-fast evaluate again")
    try:
        _rows("", report), _measured("", report), _differences({"": report})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is a damaged evaluation ({problem}); run soda-fast evaluate again") from error
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


def _differences(reports: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each thing in which numbers that stand side by side differ."""
    lines = []
    for key in _REPORT_KEYS:
        lines += _difference(key, {name: report[key] for name, report in reports.items()})
    settings = {name: _settings(report) for name, report in reports.items()}
    for what in dict.fromkeys(what for own in settings.values() for what in own):
        lines += _difference(what, {name: own[what] for name, own in settings.items() if what in own})
    return lines


def _difference(what: str, found: dict[str, Any]) -> list[str]:
    if len({json.dumps(value, sort_keys=True) for value in found.values()}) < 2:
        return []
    return [f"not equal: {what}" + "".join(f"\n  {name}: {value}" for name, value in found.items())]


def _settings(report: dict[str, Any]) -> dict[str, Any]:
    """{"PROTOCOL SETTING": value}, transforms among them; all encoders and features of a report share these."""
    return {
        f"{entry['protocol']} {key}": value
        for entry in (*report["results"], *report["measures"])
        for key, value in {"transform": entry["transform"], **entry["setting"]}.items()
        if key not in _OWN_SETTINGS
    }


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """What each report is called: its folder, with as many of those above as tell all apart, and what it is of."""
    places = {file: Path(os.path.abspath(file)) for file in files}
    for depth in range(1, max(len(place.parts) for place in places.values())):
        names = {
            file: "/".join(place.parts[:-1][-depth:]) + place.stem.removeprefix("evaluation")
            for file, place in places.items()
        }
        if len(set(names.values())) == len(names):
            return names
    return {file: str(file) for file in files}
