"""The ledger as tables and pictures: python -m benchmarks.report

reads every record under benchmarks/results/MACHINE/DATE-COMMIT.json and writes benchmarks/RESULTS.md, with pictures
beside the records. Of each part of the suite the newest measurement on a machine counts, so a record of some parts
hides no other; what a record lacks is listed as missing. `--add FILE` first puts a record of `benchmarks.gpu_suite`
into the ledger.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.ladder.rungs import LAST_RUNG
from benchmarks.plots import draw
from benchmarks.record import Record, read_record, write_record
from benchmarks.sections import SECTIONS, missing, title
from benchmarks.suite.parts import Options, all_parts

ROOT = Path(__file__).parent
LEDGER = ROOT / "results"
ENVIRONMENT = "environment"  # the suite's first part: ceilings
START, END = "<!-- from the ledger: python -m benchmarks.report -->", "<!-- end of the ledger -->"


# What a result raises that is not as a section or a picture takes it to be: of an older layout, or only half of one.
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def write_report(
    records: Sequence[Record], folder: Path, name: str = "report.md", pictures: bool = True, last: Sequence[str] = ()
) -> Path:
    """Tables of the records and, if wanted, their pictures in `folder`, and `last` lines; returns the Markdown file."""
    lines = ["# Measurements", ""]
    machines: set[str] = set()
    for record in records:
        earlier = f", parts measured on {record.started[:10]}" if record.machine in machines else ""
        machines.add(record.machine)
        lines += [f"## {title(record)}{earlier}", "", *_head(record)]
        for section in SECTIONS:
            lines += _shown(section, record)
        if pictures:
            lines += _pictures(record, folder)
        lines += ["### Missing", "", *(f"- {one}" for one in _shown(missing, record) if one), ""]
    if not records:
        lines += ["Nothing has been measured yet.", ""]
    path = folder / name
    path.write_text("\n".join([*lines, *last]))
    return path


def _shown(section: Callable[[Record], list[str]], record: Record) -> list[str]:
    """A section; or that it cannot be shown: the others are worth having without it."""
    try:
        return section(record)
    except _UNREADABLE as error:
        return [f"The section on {section.__name__} cannot be shown: {type(error).__name__}: {error}", ""]


def _pictures(record: Record, folder: Path) -> list[str]:
    try:
        drawn = draw(record, folder / "plots" / record.machine)
    except _UNREADABLE as error:
        return [f"Pictures cannot be drawn: {type(error).__name__}: {error}", ""]
    except ImportError as error:
        return [f"No pictures: {error}; pip install matplotlib, and ask for the report again", ""]
    return [*(f"![{picture.stem}]({picture.relative_to(folder)})" for picture in drawn), ""]


def _head(record: Record) -> list[str]:
    environment = record.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items() if version)
    lines = [
        f"{record.started}, commit {environment.get('commit')}, `{record.command}`, {packages}, "
        f"Python {environment.get('python')}.",
        "",
    ]
    if record.small:
        lines += [
            "**Small sizes, to see that the parts work: nothing here is a statement about speed.**",
            "",
        ]
    absent = environment.get("left_out")
    if absent:
        lines += ["Not installed: " + ", ".join(f"{name} ({use})" for name, use in absent.items()) + ".", ""]
    gpu = environment.get("gpu")
    if gpu:
        lines += ["As found: " + ", ".join(f"{name} {value}" for name, value in gpu.items()) + ".", ""]
    return lines


def unmeasured(records: Iterable[Record]) -> list[str]:
    """A chapter on what the suite measures and no GPU has measured yet; none where nothing is."""
    measured = {
        part.name
        for record in records
        if record.device == "cuda" and not record.small
        for part in record.parts
        if part.status == "measured"
    }
    everything = all_parts(Options(on_gpu=True, data=None, folder=ROOT))
    absent = [part.title for part in everything if part.name not in measured]
    return ["## Not yet measured on any GPU", "", *(f"- {title}" for title in absent), ""] if absent else []


def ledger(folder: Path = LEDGER) -> list[Record]:
    """The newest record of each machine, followed by earlier ones with the parts that no later one has measured.

    Small sizes and real ones do not stand in for each other: the former count where there is nothing else.

    Raises:
        ValueError: a file is not a record.
    """
    machines: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*/*.json")):
        record = read_record(path)
        machines.setdefault(record.machine, []).append(record)
    return [record for records in machines.values() for record in _without_hidden(records)]


def _without_hidden(records: Sequence[Record]) -> list[Record]:
    """Of one machine's records those that count, newest first."""
    real = [record for record in records if not record.small] or records
    kept: list[Record] = []
    covered: set[str] = set()
    for record in sorted(real, key=lambda record: record.started, reverse=True):
        measured = {part.name for part in record.parts if part.status == "measured"}
        if not kept:
            kept.append(record)
        elif measured - covered - {ENVIRONMENT}:
            # Its ceilings go along: what it measured is compared with them.
            shown = measured - covered | {ENVIRONMENT}
            kept.append(replace(record, parts=[part for part in record.parts if part.name in shown]))
        covered |= measured
    return kept


def add(path: Path, folder: Path = LEDGER) -> Path:
    """Put a record into the ledger; returns its place."""
    record = read_record(path)
    name = f"{record.started[:10]}-{record.environment.get('commit', 'unknown')}"
    place = folder / record.machine / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while place.exists() and read_record(place).started != record.started:
        number += 1
        place = place.with_name(f"{name}-{number}.json")
    write_record(place, record)
    return place


def readme_lines(records: Iterable[Record]) -> list[str]:
    """What the README says of speed: the last rung of each ladder on each GPU that was measured."""
    rows = []
    for record in records:
        for name, size in (("ladder_32", "32x32, CIFAR-10's"), ("ladder_64", "64x64, Tiny-ImageNet's")):
            rungs = [
                row
                for row in record.result(name).get("rungs", ())
                if row["status"] == "measured" and row["name"] == LAST_RUNG
            ]
            if record.small or not rungs:
                continue
            rate, last = rungs[-1]["images_per_second"], rungs[-1]
            times = last.get("times_published")
            published = f", {times:.1f} times the reference's recipe" if times else ""
            spread = f"{rate['lower_quartile']:,.0f} .. {rate['upper_quartile']:,.0f}"
            rows.append(
                f"- {record.environment.get('device')}, {size} configuration: {rate['median']:,.0f} images/s "
                f"({spread}){published}"
            )
    return rows or ["Nothing has been measured on a GPU yet, so no figure stands here."]


def put_into_readme(text: str, records: Iterable[Record]) -> str:
    """The README with the ledger's lines between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    if START not in text or END not in text:
        raise ValueError(f"README.md lacks the marks {START!r} and {END!r}")
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    return "\n".join([before + START, *readme_lines(records), END + after])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--add", type=Path, metavar="FILE", help="a record to put into the ledger first")
    options = parser.parse_args()
    try:
        if options.add:
            print(add(options.add))
        records = ledger()
        print(write_report(records, ROOT, "RESULTS.md", last=unmeasured(records)))
        readme = ROOT.parent / "README.md"
        readme.write_text(put_into_readme(readme.read_text(), records))
    except (ValueError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
