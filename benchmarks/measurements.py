"""The figures of a record, each under a name of its own: what reports list and comparisons compare."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.record import Record
from benchmarks.timing import spread


@dataclass(frozen=True)
class Measurement:
    """A figure: median, quartiles (equal to it where there was one reading), unit, and whether more is better."""

    name: str
    median: float
    lower: float
    upper: float
    unit: str
    more_is_better: bool


def measurements(record: Record) -> dict[str, Measurement]:
    """All figures of a record by name, in the order of its parts."""
    makers = {
        "environment": _ceilings,
        "kernels": _kernels,
        "ladder_32": _ladder,
        "ladder_64": _ladder,
        "scaling": _scaling,
        "memory": _memory,
        "input_pipeline": _spread_rates,
        "evaluation": _evaluation,
        "probe_costs": _probe_costs,
        "training": _training,
    }
    found: dict[str, Measurement] = {}
    for part in record.parts:
        make = makers.get(part.name)
        for figure in make(part.result or {}) if make else ():
            name = f"{part.name}/{figure.name}"
            found[name] = replace(figure, name=name)
    return found


def _single(name: str, value: float, unit: str, more_is_better: bool = True) -> Measurement:
    return Measurement(name, value, value, value, unit, more_is_better)


def _several(name: str, values: Sequence[float], unit: str, more_is_better: bool) -> Measurement:
    lower, median, upper = spread(values)
    return Measurement(name, median, lower, upper, unit, more_is_better)


def _quartiles(name: str, found: dict[str, float], unit: str, more_is_better: bool) -> Measurement:
    return Measurement(name, found["median"], found["lower_quartile"], found["upper_quartile"], unit, more_is_better)


def _ceilings(result: dict[str, Any]) -> Iterator[Measurement]:
    ceilings = result.get("ceilings")
    if ceilings:
        yield _single("copy", ceilings["copy_bytes_per_second"] / 1e9, "GB/s")
        matrix = ceilings["matrix"]
        yield _single(f"matrix product {matrix['dtype']}", matrix["measured_tflops"], "TFLOP/s")


def _kernels(result: dict[str, Any]) -> Iterator[Measurement]:
    for row in result.get("rows", ()):
        if row["provider"] == "triton":
            name = f"{row['shape']} batch {row['batch']} {row['layout']} {row['direction']}"
            yield _quartiles(name, row["time"], "us", False)


def _ladder(result: dict[str, Any]) -> Iterator[Measurement]:
    for row in result.get("rungs", ()):
        if row["status"] == "measured":
            yield _quartiles(row["name"], row["images_per_second"], "images/s", True)


def _scaling(result: dict[str, Any]) -> Iterator[Measurement]:
    for row in result.get("measured", ()):
        if "error" not in row:
            yield _quartiles(f"{row['processes']}/{row['process_images']}", row["step_s"], "s", False)


def _memory(result: dict[str, Any]) -> Iterator[Measurement]:
    if "measured_gib" in result:
        yield _single("peak", result["measured_gib"], "GiB", more_is_better=False)


def _spread_rates(result: dict[str, Any]) -> Iterator[Measurement]:
    """Rows with a name, and a rate with quartiles."""
    for row in result.get("rows", ()):
        yield _quartiles(row["name"], row["images_per_second"], "images/s", True)


def _evaluation(result: dict[str, Any]) -> Iterator[Measurement]:
    for kind in ("knn", "linear"):
        for name, seconds in result.get(kind, {}).get("seconds", {}).items():
            yield _several(f"{kind} {name}", seconds, "s", False)


def _probe_costs(result: dict[str, Any]) -> Iterator[Measurement]:
    for kind, unit in (("encoding", "images/s"), ("reference", "images/s"), ("protocols", "s")):
        for name, figures in result.get(kind, {}).items():
            yield _several(f"{kind} {name}", figures, unit, unit != "s")


def _training(result: dict[str, Any]) -> Iterator[Measurement]:
    rates = [line["images_per_second"] for line in result.get("metrics", ()) if "images_per_second" in line]
    if rates:
        yield _several("images/s", rates, "images/s", True)
