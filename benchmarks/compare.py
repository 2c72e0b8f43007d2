"""Which of two is faster, and is it more than noise: python -m benchmarks.compare A.json B.json

compares two records of `benchmarks.gpu_suite`: for every figure that both hold, B over A with the range that the
quartiles leave open. A regression is marked where the whole range is on the wrong side.

    python -m benchmarks.compare --config configs/cifar10.yaml --revisions main HEAD
    python -m benchmarks.compare --config configs/cifar10.yaml --change perf.kernels=pytorch

times the training step instead, of two git revisions or of a configuration without and with a change, by turns: each
pair runs within a minute or so of itself, so that a machine that slows down slows both.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measurements import Measurement, measurements
from benchmarks.paired import Contestant, checked_out, time_pairs
from benchmarks.record import read_record
from benchmarks.timing import spread


@dataclass(frozen=True)
class Ratio:
    """B over A. lower, upper: what the spread leaves open. more_is_better: of this unit."""

    name: str
    value: float
    lower: float
    upper: float
    more_is_better: bool

    @property
    def verdict(self) -> str:
        """ "better", "WORSE", or "" where the spread leaves it open."""
        if self.lower <= 1 <= self.upper:
            return ""
        return "better" if (self.value > 1) == self.more_is_better else "WORSE"


def ratio(a: Measurement, b: Measurement) -> Ratio:
    """B over A, with the widest range that the quartiles allow: none above, where A's reach down to nothing."""
    upper = b.upper / a.lower if a.lower > 0 else math.inf
    return Ratio(a.name, b.median / a.median, b.lower / a.upper, upper, a.more_is_better)


def compare(a: dict[str, Measurement], b: dict[str, Measurement]) -> list[Ratio]:
    """The ratio of every figure that both hold."""
    return [ratio(a[name], b[name]) for name in a if name in b]


def paired_ratio(name: str, pairs: Sequence[tuple[float, float]]) -> Ratio:
    """B over A from seconds measured by turns: the median of the pairs' ratios, and their quartiles."""
    ratios = [b / a for a, b in pairs]
    lower, middle, upper = spread(ratios)
    return Ratio(name, middle, lower, upper, more_is_better=False)


def format_ratio(found: Ratio) -> str:
    """One line."""
    return f"{found.name:64} {found.value:7.3f}  ({found.lower:.3f} .. {found.upper:.3f})  {found.verdict}".rstrip()


def compare_records(a: Path, b: Path) -> int:
    """Print the comparison of two files; the exit status is 1 if something became worse."""
    records = [read_record(path) for path in (a, b)]
    if records[0].machine != records[1].machine:
        print(f"different machines: {records[0].machine}, {records[1].machine}")
    found = compare(*(measurements(record) for record in records))
    if not found:
        raise ValueError(f"{a} and {b} have no figure in common")
    print("B / A (range of the quartiles)")
    print("\n".join(format_ratio(one) for one in found))
    return int(any(one.verdict == "WORSE" for one in found))


def compare_runs(options: argparse.Namespace) -> int:
    """Time the training step by turns."""
    common = list(options.overrides)
    with checked_out(options.revisions or []) as folders:
        if options.revisions:
            contestants = [Contestant(folder, options.config, common) for folder in folders]
        else:
            here = Path(__file__).parents[1]
            contestants = [Contestant(here, options.config, [*common, *change]) for change in ((), options.change)]
        pairs = time_pairs(contestants[0], contestants[1], options.pairs, options.steps)
    for a, b in pairs:
        print(f"A {1e3 * a:10.2f} ms    B {1e3 * b:10.2f} ms    B / A {b / a:.3f}")
    found = paired_ratio("training step, seconds, B / A", pairs)
    print(format_ratio(found))
    return int(found.verdict == "WORSE")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="A.json B.json", help="two records")
    parser.add_argument("--config", help="time the training step of this configuration by turns")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="key=value", help="for both")
    parser.add_argument("--revisions", nargs=2, metavar=("A", "B"), help="two git revisions")
    parser.add_argument("--change", nargs="+", default=[], metavar="key=value", help="what B has and A has not")
    parser.add_argument("--pairs", type=int, default=5, help="how many times each is timed")
    parser.add_argument("--steps", type=int, default=20, help="of which each time is the median")
    options = parser.parse_args()
    records = options.config is None and len(options.files) == 2
    runs = options.config and not options.files and bool(options.revisions) != bool(options.change)
    if not (records or runs):
        parser.error("give two records, or --config with either --revisions or --change")
    try:
        return compare_records(*options.files) if records else compare_runs(options)
    except (ValueError, OSError) as error:
        print(f"benchmarks.compare: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
