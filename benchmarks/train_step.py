"""Time the training step of a configuration: python -m benchmarks.train_step --config configs/cifar10.yaml

One process, everything as in training: noising, forward, backward, clipping, AdamW, moving average. The clock runs over
single steps after a warm-up, with the device synchronised at both ends. With --loader real a step begins with waiting
for the loader's batch; otherwise it works on noise that lies on the device.

    python -m benchmarks.train_step --config configs/cifar10.yaml --ladder

climbs instead from the reference implementation's recipe to this trainer, one change at a time, each in a process of
its own; benchmarks/ladder/rungs.py says what changes. --json is written anew after every rung.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.json_file import write_json
from benchmarks.ladder.child import Request
from benchmarks.ladder.images import find_images
from benchmarks.ladder.measure import Limits, OnDevice, peak_memory_gib
from benchmarks.ladder.run import Plan, climb
from benchmarks.ladder.rungs import RUNGS, rung_named
from benchmarks.ladder.table import HEADER, LEGEND, format_head, format_row, format_targets
from benchmarks.machine import describe_machine
from benchmarks.synthetic import EPOCH_IMAGES, synthetic_parts
from benchmarks.timing import spread, timed, waiter
from soda_fast.config import Config, ConfigError, load_config, warmup_images
from soda_fast.data import Dataset
from soda_fast.flops import count_flops
from soda_fast.gpus import sheet_of
from soda_fast.parallel import Processes, start_processes
from soda_fast.train import resolve
from soda_fast.training.assembly import open_loader
from soda_fast.training.determinism import kernel_choice
from soda_fast.training.step import TrainStep


@dataclass(frozen=True)
class Timing:
    """Seconds of a step: median and quartiles over the timed steps."""

    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    steps: int
    warmup_steps: int


def measure(run_step: Callable[[], None], device: torch.device, steps: int, warmup_steps: int) -> Timing:
    """Time `steps` calls one by one after `warmup_steps`."""
    lower, median, upper = spread(timed(run_step, waiter(device), steps, warmup_steps))
    return Timing(median, lower, upper, steps, warmup_steps)


def benchmark(
    config: Config, dataset: Dataset | None, processes: Processes, steps: int, warmup_steps: int
) -> dict[str, Any]:
    """All figures of one configuration, as JSON would hold them.

    dataset: whose batches the loader brings; None: noise that lies on the device.
    """
    device, accumulate = processes.device, config.train.accumulate
    epoch_images = EPOCH_IMAGES if dataset is None else len(dataset.train)
    step = TrainStep(config, processes, warmup_images(config, epoch_images))
    loader = (
        OnDevice(synthetic_parts(config, device)) if dataset is None else open_loader(config, dataset, processes, 0)
    )

    def run_step() -> None:
        step([next(loader) for _ in range(accumulate)])

    try:
        timing = measure(run_step, device, steps, warmup_steps)
        step.guard.check()
    finally:
        loader.close()
    batch = config.train.global_batch_images
    flops = count_flops(config).forward_backward * batch
    sheet = sheet_of(device) if step.bf16 else None
    return {
        "machine": describe_machine(device),
        "loader": "synthetic" if dataset is None else "real",
        "images_per_second": batch / timing.median_s,
        "batch_images": batch,
        "timing": asdict(timing),
        "gflop_per_image": flops / batch / 1e9,
        "tflop_per_second": flops / timing.median_s / 1e12,
        "data_sheet": sheet.name if sheet else None,
        "mfu_data_sheet": flops / timing.median_s / 1e12 / sheet.bf16_tflops if sheet else None,
        "peak_memory_gib": peak_memory_gib(device) if device.type == "cuda" else None,
    }


def format_result(result: dict[str, Any]) -> str:
    """A few lines for a person."""
    timing, machine = result["timing"], result["machine"]
    share, sheet = result["mfu_data_sheet"], result["data_sheet"]
    mfu = f", MFU {100 * share:.1f} % of the {sheet}'s data sheet (bf16, dense)" if share else ", MFU not defined here"
    lines = [
        f"{machine['device']}, {machine['threads']} CPU threads, torch {machine['torch']}, commit {machine['commit']}",
        f"step     {1e3 * timing['median_s']:.1f} ms (quartiles {1e3 * timing['lower_quartile_s']:.1f} .. "
        f"{1e3 * timing['upper_quartile_s']:.1f}; {timing['steps']} steps after {timing['warmup_steps']}; "
        f"{result['loader']} loader)",
        f"images   {result['images_per_second']:,.1f} per second, {result['batch_images']} per step",
        f"FLOPs    {result['gflop_per_image']:.2f} GFLOP per image, {result['tflop_per_second']:.3f} TFLOP/s{mfu}",
    ]
    if result["peak_memory_gib"]:
        lines.append(f"memory   {result['peak_memory_gib']:.2f} GiB at the peak")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys that replace the file's")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument(
        "--loader",
        choices=("synthetic", "real"),
        help="noise on the device, or real batches; default: synthetic, real with --ladder",
    )
    parser.add_argument(
        "--synthetic-images", type=int, default=0, metavar="N", help="real batches of N random images in memory"
    )
    step = parser.add_argument_group("a single step")
    step.add_argument("--steps", type=int, default=20, help="timed steps")
    step.add_argument("--warmup", type=int, default=3, help="steps before the clock runs")
    ladder = parser.add_argument_group("the ladder")
    ladder.add_argument("--ladder", action="store_true", help="from the reference's recipe to this trainer")
    ladder.add_argument("--only", nargs="+", metavar="RUNG", help="of: " + ", ".join(rung.name for rung in RUNGS))
    ladder.add_argument("--seconds-per-rung", type=float, default=Limits.seconds, help="of measuring, warm-up aside")
    ladder.add_argument("--rung-limit", type=float, default=300.0, help="seconds after which a rung is given up")
    return parser


def run_single(options: argparse.Namespace, device: str) -> None:
    """Time one configuration."""
    config = load_config(options.config, options.overrides)
    dataset, images = None, None
    if options.loader == "real":
        dataset, images = find_images(config, options.synthetic_images)
        config = resolve(config, dataset)
    with kernel_choice(config.train.deterministic), start_processes(device) as processes:
        result = benchmark(config, dataset, processes, options.steps, options.warmup)
    if images:
        result["images"] = images
    print(format_result(result))
    if options.json:
        write_json(options.json, {"config": options.config, "overrides": options.overrides, **result})


def run_ladder(options: argparse.Namespace, device: str) -> None:
    """Climb the ladder, row by row."""
    request = Request(
        config=options.config,
        overrides=options.overrides,
        device=device,
        synthetic_images=options.synthetic_images,
        real_loader=options.loader != "synthetic",
        seconds=options.seconds_per_rung,
    )
    if request.real_loader:
        find_images(load_config(options.config, options.overrides), options.synthetic_images)  # or say so at once
    rungs = tuple(rung_named(name) for name in options.only) if options.only else RUNGS
    print(HEADER, flush=True)
    said: set[str] = set()
    result = climb(
        Plan(request, rungs, options.rung_limit, options.json), lambda row: print(format_row(row, said), flush=True)
    )
    print("\n".join([LEGEND, format_head(result), format_targets(result)]))
    images = next((row["images"] for row in result["rungs"] if "images" in row), None)
    if images:
        print(f"images: {images}")


def main() -> int:
    """The command line."""
    parser = _parser()
    options = parser.parse_args()
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps must be at least 1 and --warmup at least 0")
    if options.synthetic_images < 0 or options.seconds_per_rung <= 0 or options.rung_limit <= 0:
        parser.error("--synthetic-images must not be negative; --seconds-per-rung and --rung-limit must be positive")
    # As an exception, so that a rung's process does not outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmarks.train_step: told to end"))
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: PyTorch sees no GPU here; use --device cpu")
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        (run_ladder if options.ladder else run_single)(options, device)
    except ValueError as error:
        print(f"benchmarks.train_step: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
