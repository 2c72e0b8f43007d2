"""Images per second of the data pipelines, both views of each: python -m benchmarks.input_pipeline

Contestants: our loader on the CPU and, where there is one, on the GPU, there also without Triton kernels for views
(`tensors`); torchvision's transforms on Pillow images in a DataLoader as the reference implementation has it, with one
worker and with one for each core, decoding once for each view; the same repaired (persistent workers, one decoding);
and `synthetic`, which costs nothing. All make the same views: the reference's crop, flip, RandAugment, normalising,
noise.

The contestants take turns in every round, so that a machine that slows down slows all; medians and extremes are over
rounds. A round's clock starts when what was prepared ahead is used up.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.input_loaders import (
    Backend,
    Case,
    Images,
    Opened,
    make_images,
    open_ours,
    open_synthetic,
    open_torchvision,
)
from benchmarks.json_file import write_json
from benchmarks.machine import describe_machine
from benchmarks.timing import spread, waiter
from soda_fast.config import load_config
from soda_fast.config.types import Kernels
from soda_fast.data.executor import dali_is_installed, default_threads
from soda_fast.data.image_set import DecodedImages
from soda_fast.flops import count_flops
from soda_fast.gpus import sheet_of

WARMUP_BATCHES = 6  # at least; more than our loader prepares ahead
CASES = {
    "32": Case("32", 32, 32, 32, 32, encoded=False, randaugment=True),
    "64": Case("64", 64, 64, 64, 64, encoded=True, randaugment=True),
    "224-64": Case("224-64", 224, 64, 375, 500, encoded=True, randaugment=True),
}
CONFIGS = {"32": "configs/cifar10.yaml", "64": "configs/tiny_imagenet.yaml", "224-64": "configs/tiny_imagenet.yaml"}
SUSTAINED = 0.5  # the share of a GPU's peak at which a training step is assumed to run


@dataclass(frozen=True)
class Contestant:
    """One row. `open` starts it anew for each round."""

    name: str
    device: str
    threads: int
    batch: int
    open: Callable[[], Opened]

    @property
    def warmup_batches(self) -> int:
        """More than are prepared ahead: two by each of a DataLoader's workers."""
        return max(WARMUP_BATCHES, 2 * self.threads + 2)


@dataclass(frozen=True)
class Row:
    """Images per second of one contestant over the rounds."""

    name: str
    device: str
    threads: int
    batch: int
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def contestants(
    case: Case, images: Images, threads: Sequence[int], batches: Sequence[int], gpu: bool
) -> list[Contestant]:
    """Every contestant at every number of threads (or workers) and every batch."""
    cpu = torch.device("cpu")
    cuda, decoded = torch.device("cuda"), isinstance(images.ours, DecodedImages)
    backends: list[Backend] = []
    if dali_is_installed():
        backends.append("dali")
    if decoded:
        backends.append("batched")
    ours: list[tuple[str, Backend, torch.device, Kernels]] = [
        (f"soda_fast {backend}", backend, device, "auto") for device in [cpu, *[cuda] * gpu] for backend in backends
    ]
    if gpu and decoded:
        ours.append(("soda_fast batched, tensors", "batched", cuda, "pytorch"))
    found: list[Contestant] = []
    opened: Callable[[], Opened]
    for batch in batches:
        for count in threads:
            for name, backend, device, kernels in ours:
                opened = partial(open_ours, case, images, backend, device, count, batch, kernels)
                found.append(Contestant(name, device.type, count, batch, opened))
            for name, decodes in (("reference", 2), ("repaired", 1)):
                opened = partial(open_torchvision, case, images, count, batch, decodes)
                found.append(Contestant(f"torchvision {name}", "cpu", count, batch, opened))
        if 1 not in threads:
            opened = partial(open_torchvision, case, images, 1, batch, 2)
            found.append(Contestant("torchvision reference", "cpu", 1, batch, opened))
        device = cuda if gpu else cpu
        found.append(Contestant("synthetic", device.type, 0, batch, partial(open_synthetic, case, device, batch)))
    return found


def measure(contestants: Sequence[Contestant], rounds: int, seconds: float) -> list[Row]:
    """All contestants in turn, `rounds` times, each for at least `seconds`."""
    rates: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for contestant, found in zip(contestants, rates, strict=True):
            wait = waiter(torch.device(contestant.device))
            with contestant.open() as batches:
                pace = batches_per_second(batches, seconds, wait, contestant.warmup_batches)
                found.append(contestant.batch * pace)
    return [
        Row(c.name, c.device, c.threads, c.batch, tuple(found)) for c, found in zip(contestants, rates, strict=True)
    ]


def batches_per_second(batches: Any, seconds: float, wait: Callable[[], None], warmup: int) -> float:
    """The pace of an iterator asked without pause, after `warmup` batches. wait: for the device's part of them."""
    for _ in range(warmup):
        next(batches)
    wait()
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    wait()
    return count / (time.perf_counter() - start)


def step_rate(case: Case, tflops: float | None) -> dict[str, float] | None:
    """Images per second of a training step at a sustained rate of arithmetic; None where that is not known."""
    if tflops is None:
        return None
    config = load_config(CONFIGS[case.name], [f"data.source_size={case.source_size}", "train.epochs=1"])
    flops = count_flops(config).forward_backward
    return {"gflop_per_image": flops / 1e9, "tflops": tflops, "images_per_second": tflops * 1e12 / flops}


def sustained_tflops() -> float | None:
    """Half the GPU's peak; None without a GPU, or if its peak is not known."""
    sheet = sheet_of(torch.device("cuda")) if torch.cuda.is_available() else None
    return sheet.bf16_tflops * SUSTAINED if sheet else None


@dataclass(frozen=True)
class Result:
    """All rows of one case, and the images per second that the training step needs, if known."""

    case: Case
    rows: list[Row]
    step: dict[str, float] | None


def run_case(case: Case, options: argparse.Namespace) -> Result:
    """Measure one case."""
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(case, Path(folder), options.images)
        everyone = contestants(case, images, options.threads, options.batch, options.gpu)
        rows = measure(everyone, options.rounds, options.seconds)
    need = {"images_per_second": options.step_rate} if options.step_rate else step_rate(case, options.tflops)
    return Result(case, rows, need)


def as_json(result: Result) -> list[dict[str, Any]]:
    """A row for each contestant, under a name of its own; rates in images/s."""
    case, found = result.case, []
    for row in result.rows:
        augmented = "RandAugment" if case.randaugment else "no RandAugment"
        workers = f"{row.threads} threads, " if row.threads else ""
        lower, median, upper = spread(row.rates)
        found.append(
            {
                "name": f"{case.name} {augmented}: {row.name} on {row.device}, {workers}batch {row.batch}",
                "case": asdict(case),
                "loader": row.name,
                "device": row.device,
                "threads": row.threads,
                "batch": row.batch,
                "images_per_second": {"median": median, "lower_quartile": lower, "upper_quartile": upper},
                "rounds": list(row.rates),
                "times_reference": times_reference(result.rows, row),
                "step": result.step,
            }
        )
    return found


def format_result(result: Result) -> str:
    """A table for a person. `times`: the row's rate over that of torchvision as the reference does it."""
    case = result.case
    lines = [
        f"views of {case.source_size} and {case.target_size} pixels from {case.height}x{case.width} "
        f"{'JPEGs' if case.encoded else 'pixels'}, {'with' if case.randaugment else 'without'} RandAugment",
        f"  {'':28}{'device':>8}{'threads':>9}{'batch':>7}{'images/s':>15}{'lowest':>15}{'highest':>15}{'times':>8}",
    ]
    for row in result.rows:
        times = times_reference(result.rows, row)
        lines.append(
            f"  {row.name:28}{row.device:>8}{row.threads:>9}{row.batch:>7}{row.median:>15,.0f}"
            f"{min(row.rates):>15,.0f}{max(row.rates):>15,.0f}" + (f"{times:8.2f}" if times else "")
        )
    if result.step:
        lines.append(f"  the training step needs  {result.step['images_per_second']:,.0f} images/s")
    return "\n".join(lines)


def times_reference(rows: Sequence[Row], row: Row) -> float | None:
    """The median over the rounds of this row's rate over that of torchvision as the reference does it, with as many
    workers as this has threads; None for a row without."""
    same = [
        other
        for other in rows
        if (other.name, other.threads, other.batch) == ("torchvision reference", row.threads, row.batch)
    ]
    if not same:
        return None
    return statistics.median(mine / theirs for mine, theirs in zip(row.rates, same[0].rates, strict=True))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=CASES, default=list(CASES), help="sizes of the two views")
    parser.add_argument("--randaugment", choices=("with", "without", "both"), default="both")
    parser.add_argument("--threads", nargs="+", type=int, default=[default_threads()], help="threads, or workers")
    parser.add_argument("--batch", nargs="+", type=int, default=[256])
    parser.add_argument("--images", type=int, default=2048, help="different images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contestant in each round, at least")
    parser.add_argument("--tflops", type=float, default=sustained_tflops(), help="at which the training step runs")
    parser.add_argument("--step-rate", type=float, help="images/s that the training step needs, if measured")
    parser.add_argument("--no-gpu", dest="gpu", action="store_false", default=torch.cuda.is_available())
    parser.add_argument("--json", type=Path, help="write all figures here as well")
    options = parser.parse_args(arguments)
    if min(*options.threads, *options.batch, options.rounds, 1) < 1 or options.seconds <= 0:
        parser.error("--threads, --batch, --rounds and --seconds must be positive")
    if max(options.batch) > options.images:
        parser.error(f"--images {options.images} is less than a batch; give at least {max(options.batch)}")
    return options


def main() -> int:
    """Measure, print, write."""
    options = parse()
    machine = describe_machine(torch.device("cuda" if options.gpu else "cpu"))
    load = os.getloadavg()[0]
    print(f"{machine['device']}, {default_threads()} cores, torch {machine['torch']}, commit {machine['commit']}")
    print(f"load before the start {load:.1f}: what else runs on the machine slows everything here")
    if not dali_is_installed():
        print("DALI is not installed here, and is left out")
    results = []
    for name in options.sizes:
        for randaugment in {"with": (True,), "without": (False,), "both": (True, False)}[options.randaugment]:
            results.append(run_case(replace(CASES[name], randaugment=randaugment), options))
            print(format_result(results[-1]), flush=True)
            if options.json:  # after each case: a run cut short keeps what it has
                rows = [row for result in results for row in as_json(result)]
                report = {"machine": machine, "load_before": load, "dali": dali_is_installed()}
                write_json(options.json, report | {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
