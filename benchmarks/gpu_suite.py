"""Measure everything on this machine: python -m benchmarks.gpu_suite --out DIR [--minutes 9] [--only PART ...]

Parts run in processes of their own, most valuable first, each with a time limit. DIR/record.json and DIR/report.md are
written anew after every part, and pictures at the end; a suite that is interrupted leaves what it had, and after a kill
that nothing can answer `--report` finds it. What a first call had no time for a second one measures, with --only.

Nine minutes on a GPU are for environment, tests, profile and ladder_32, and kernels with what is left. Half an hour is
for three calls, on the same machine, since the later ones find what the first has compiled:

    python -m benchmarks.gpu_suite --out DIR/1 --only environment tests profile
    python -m benchmarks.gpu_suite --out DIR/2 --only ladder_32 kernels
    python -m benchmarks.gpu_suite --out DIR/3 --only scaling memory ladder_64 input_pipeline evaluation probe_costs

Without a GPU the parts run at sizes that only show that they work, and the record says so.
"""

import argparse
import datetime
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.environment import describe, machine_name
from benchmarks.ladder.targets import not_judged
from benchmarks.machine import COMMIT_VARIABLE
from benchmarks.packages import left_out
from benchmarks.record import Record, write_record
from benchmarks.report import write_report
from benchmarks.suite.parts import Options, all_parts
from benchmarks.suite.places import places_of, without_places
from benchmarks.suite.run import Budget, recover, run_suite


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results; made if absent")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing is started or goes on")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, by name")
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", help="CIFAR-10, as data.root, or train/CLASS/ with 32x32 images"
    )
    parser.add_argument("--commit", help="what to call the code, where a copy of the tree has no history of git")
    parser.add_argument("--report", action="store_true", help="measure nothing: the report of what DIR has")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    options = parser.parse_args()
    if options.commit:
        os.environ[COMMIT_VARIABLE] = options.commit  # for the parts' processes too
    begin = time.monotonic()
    if not 0 < options.minutes < 24 * 60:
        parser.error(f"--minutes is {options.minutes:g}; give more than 0 and less than a day")
    if options.data is not None and not options.data.is_dir():
        parser.error(f"--data: there is no folder {options.data}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = options.data.resolve() if options.data else None
    parts = all_parts(Options(device.type == "cuda", data, options.out.resolve()))
    unknown = set(options.only or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: the parts are {', '.join(part.name for part in parts)}")
    if options.list:
        print("\n".join(f"{part.name:16} {part.title}" for part in parts))
        return 0
    places = places_of(options.out.resolve(), data)
    if options.report:
        return _report_again(options.out / "record.json", places)
    options.out.mkdir(parents=True, exist_ok=True)
    for package, use in left_out().items():
        print(f"{package} is not installed here: without it there is nothing on {use}")
    if device.type == "cuda" and (why := not_judged(torch.cuda.get_device_name())):
        print(why)
    path = options.out / "record.json"
    if earlier := put_aside(path, places):
        print(f"the record that was here is now {earlier}")
    record = Record(
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine_name(device),
        device="cuda" if device.type == "cuda" else "cpu",
        small=device.type != "cuda",
        command=without_places(shlex.join(["python", "-m", "benchmarks.gpu_suite", *sys.argv[1:]]), places),
        minutes=options.minutes,
        environment=describe(device),
    )
    chosen = [
        part if not options.only or part.name in options.only else replace(part, missing="not among --only")
        for part in parts
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("benchmarks.gpu_suite: told to end; what was measured is kept"))
    try:
        run_suite(
            record,
            chosen,
            Budget(begin + 60 * options.minutes),
            path,
            lambda text: print(text, flush=True),
            lambda record: write_report([record], options.out, pictures=False),
            places,
        )
    finally:
        report = write_report([record], options.out)
        print(f"{path}\n{report}")
    return 0 if all(part.status in ("measured", "left out") for part in record.parts) else 1


def put_aside(path: Path, places: Mapping[str, str]) -> Path | None:
    """Rename a record, and what a part of it may have left, before another is written in its place."""
    if not path.exists():
        return None
    number = 1
    while (place := path.with_name(f"record-{number}.json")).exists():
        number += 1
    with suppress(ValueError):  # not a record, but somebody's file all the same
        write_record(path, recover(path, places))
    path.rename(place)
    return place


def _report_again(path: Path, places: Mapping[str, str]) -> int:
    try:
        record = recover(path, places)
    except (ValueError, OSError) as error:
        print(f"benchmarks.gpu_suite: {error}", file=sys.stderr)
        return 2
    write_record(path, record)
    print(write_report([record], path.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
