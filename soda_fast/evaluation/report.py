"""The table that people read, and evaluation.json with every number and what it depends on."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

from soda_fast.evaluation.linear_protocol import LinearProtocol
from soda_fast.evaluation.measurement import MEASURES, Measurement
from soda_fast.evaluation.protocols import PROTOCOLS
from soda_fast.evaluation.result import Result, headline
from soda_fast.evaluation.versions import versions
from soda_fast.files import write_atomically

SCHEMA = 3  # of evaluation.json; rises when a key changes its meaning
HELD_OUT = "-held-out"
"""How the name of a report ends that is about images held out of the training split."""
TEST_SPLIT = "the test split"


@dataclass(frozen=True)
class Checkpoint:
    """Which weights were evaluated. name: of a checkpoint, or of another encoder. images_seen: how far it was trained.
    weights: which of its weights, with the length of the average ("EMA of train.ema_beta 0.9999")."""

    name: str
    images_seen: int
    weights: str


@dataclass(frozen=True)
class Subject:
    """What was evaluated, on what.

    dataset_hash, split_sizes: of each split. transform: of clean images, in words.
    features: how they are kept, in words. seed: of the run and of the views. seeds: of the linear protocols. device: in
    words. seconds: that the evaluation took. replaced_images: of each split, unreadable ones that others stood in for.
    tested_on: what the split called test is, in words.
    """

    run: str
    checkpoint: Checkpoint
    dataset: str
    dataset_hash: Mapping[str, str]
    transform: str
    features: str
    split_sizes: Mapping[str, int]
    num_classes: int
    seed: int
    seeds: tuple[int, ...]
    device: str
    seconds: float
    replaced_images: Mapping[str, int] = field(default_factory=dict)
    tested_on: str = TEST_SPLIT


@dataclass(frozen=True)
class Row:
    """A line of the table: an encoder, its features, accuracies by column.

    encoder: "trained"; "ema-0.07", the same with weights averaged over another length; "untrained"; "pixels".
    deviations: over seeds, of the columns that have them.
    """

    encoder: str
    features: str
    accuracies: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)


def table_rows(results: Mapping[str, Iterable[Result]]) -> list[Row]:
    """The headlines of {encoder: results}: one row for each encoder and kind of features."""
    rows = []
    for encoder, some_results in results.items():
        its_results = list(some_results)
        for features in dict.fromkeys(result.features for result in its_results):
            best = _headlines([result for result in its_results if result.features == features])
            accuracies = {column: result.accuracy for column, result in best.items()}
            deviations = {column: r.deviation for column, r in best.items() if r.deviation is not None}
            rows.append(Row(encoder, features, accuracies, deviations))
    return rows


def notes(protocols: Iterable[str], num_train: int) -> list[str]:
    """What to know of the accuracies of protocols that were fitted to so many images, a sentence each."""
    found = [PROTOCOLS[name] for name in dict.fromkeys(protocols)]
    told = [protocol.note(num_train) for protocol in found if isinstance(protocol, LinearProtocol)]
    return [note for note in told if note]


def format_table(rows: Sequence[Row]) -> str:
    """An aligned text table, accuracies in percent with one decimal, cut off and never rounded up; - where none.

    A deviation over seeds follows its mean, rounded up.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row.accuracies))
    lines = [["encoder", "features", *columns]]
    for row in rows:
        lines.append([row.encoder, row.features, *(_cell(row, column) for column in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_aligned(line, widths) for line in lines)


def _cell(row: Row, column: str) -> str:
    if column not in row.accuracies:
        return "-"
    text = percent(row.accuracies[column])
    return f"{text} ±{math.ceil(row.deviations[column] * 1000) / 10:.1f}" if column in row.deviations else text


def percent(accuracy: float) -> str:
    """An accuracy in [0, 1] as percent with one decimal, rounded down: 0.9499 is 94.9, so that no 95.0 is claimed.

    Decimal of the shortest text that names the float: 0.57 is 57.0, although the float lies a little below.
    """
    return str((Decimal(repr(float(accuracy))) * 100).quantize(Decimal("0.1"), rounding=ROUND_FLOOR))


def write_report(
    path: Path,
    subject: Subject,
    results: Mapping[str, Iterable[Result]],
    measured: Mapping[str, Iterable[Measurement]] | None = None,
) -> None:
    """Write evaluation.json and its folder, whole or not at all: accuracies under "results", all else under "measures".

    Args:
        path: of the file.
        subject: what was evaluated.
        results: {encoder: results}, encoders as in the table.
        measured: {encoder: measurements}.
    """
    report = _report(subject, results, measured or {})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def _report(
    subject: Subject, results: Mapping[str, Iterable[Result]], measured: Mapping[str, Iterable[Measurement]]
) -> dict[str, Any]:
    flat = [
        {"encoder": encoder, **asdict(result), "deviation": result.deviation}
        for encoder, some in results.items()
        for result in some
    ]
    measures = [{"encoder": encoder, **asdict(one)} for encoder, some in measured.items() for one in some]
    sources = {result["protocol"]: PROTOCOLS[result["protocol"]].source for result in flat}
    sources |= {one["protocol"]: MEASURES[one["protocol"]] for one in measures}
    return {
        "schema": SCHEMA,
        "checkpoint": {"run": subject.run, **asdict(subject.checkpoint)},
        "dataset": subject.dataset,
        "dataset_hash": dict(subject.dataset_hash),
        "transform": subject.transform,
        "features": subject.features,
        "tested_on": subject.tested_on,
        "split_sizes": dict(subject.split_sizes),
        "replaced_images": dict(subject.replaced_images),
        "num_classes": subject.num_classes,
        "seed": subject.seed,
        "seeds": list(subject.seeds),
        "device": subject.device,
        "seconds": round(subject.seconds, 3),
        "versions": versions(),
        "protocols": {name: {"source": source} for name, source in sources.items()},
        "notes": notes((result["protocol"] for result in flat), subject.split_sizes["train"]),
        "results": flat,
        "measures": measures,
    }


def _headlines(results: list[Result]) -> dict[str, Result]:
    """{column: result} of one encoder's results on one kind of features; a k-NN's column names its k."""
    columns = {}
    for protocol in dict.fromkeys(result.protocol for result in results):
        best = headline(result for result in results if result.protocol == protocol)
        columns[f"{protocol} k={best.k}" if best.k else protocol] = best
    return columns


def _aligned(line: list[str], widths: list[int]) -> str:
    """Words to the left, numbers to the right."""
    cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
    return "  ".join(cells).rstrip()
