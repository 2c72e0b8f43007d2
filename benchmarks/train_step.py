"""Time the training step of a configuration: python -m benchmarks.train_step --config configs/cifar10.yaml

One process, synthetic images, everything else as in training: noising, forward, backward, clipping, AdamW, moving
average. The clock runs over single steps after a warm-up, with the device synchronised at both ends.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine, peak_tflops
from soda_fast.config import Config, ConfigError, load_config
from soda_fast.data import Batch, Dataset, load_dataset
from soda_fast.describe import count_flops
from soda_fast.parallel import Processes, start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.train import resolve
from soda_fast.training.trainer import Trainer


@dataclass(frozen=True)
class Timing:
    """Seconds of a step: median and quartiles over the timed steps."""

    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    steps: int
    warmup_steps: int


def measure(run_step: Callable[[], None], synchronise: Callable[[], None], steps: int, warmup_steps: int) -> Timing:
    """Time `steps` calls one by one after `warmup_steps`."""
    for _ in range(warmup_steps):
        run_step()
    seconds = []
    for _ in range(steps):
        synchronise()
        start = time.perf_counter()
        run_step()
        synchronise()
        seconds.append(time.perf_counter() - start)
    lower, median, upper = statistics.quantiles(seconds, n=4) if steps > 1 else [seconds[0]] * 3
    return Timing(median, lower, upper, steps, warmup_steps)


def synthetic_parts(config: Config, device: torch.device) -> list[Batch]:
    """A global batch of noise, in accumulation parts."""
    accumulate = config.train.accumulate
    n = config.train.global_batch_images // accumulate
    generator = torch.Generator(device).manual_seed(0)

    def part(number: int) -> Batch:
        position = torch.arange(n, device=device) + number * n
        source = torch.randn(n, 3, config.data.source_size, config.data.source_size, generator=generator, device=device)
        target = torch.rand(n, 3, config.data.target_size, config.data.target_size, generator=generator, device=device)
        return Batch(source, target, position, position, position)

    return [part(number) for number in range(accumulate)]


def benchmark(config: Config, processes: Processes, steps: int, warmup_steps: int) -> dict[str, Any]:
    """All figures of one configuration, as JSON would hold them."""
    device = processes.device
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, _any_dataset(config), processes, RunDirectory(Path(folder)))
        parts = synthetic_parts(config, device)

        def run_step() -> None:
            trainer.step(parts)
            trainer.images_seen += trainer.batch_images

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        timing = measure(run_step, torch.cuda.synchronize if device.type == "cuda" else _nothing, steps, warmup_steps)
        trainer.guard.check()
    batch = config.train.global_batch_images
    flops = count_flops(config).forward_backward * batch
    precision = "bf16" if device.type == "cuda" and config.perf.precision != "fp32" else config.perf.precision
    peak = peak_tflops(device, precision)
    return {
        "machine": describe_machine(device),
        "images_per_second": batch / timing.median_s,
        "batch_images": batch,
        "timing": asdict(timing),
        "gflop_per_image": flops / batch / 1e9,
        "tflop_per_second": flops / timing.median_s / 1e12,
        "mfu": flops / timing.median_s / 1e12 / peak if peak else None,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
    }


def format_result(result: dict[str, Any]) -> str:
    """A few lines for a person."""
    timing, machine = result["timing"], result["machine"]
    lines = [
        f"{machine['device']}, {machine['threads']} CPU threads, torch {machine['torch']}, commit {machine['commit']}",
        f"step     {1e3 * timing['median_s']:.1f} ms (quartiles {1e3 * timing['lower_quartile_s']:.1f} .. "
        f"{1e3 * timing['upper_quartile_s']:.1f}; {timing['steps']} steps after {timing['warmup_steps']})",
        f"images   {result['images_per_second']:,.1f} per second, {result['batch_images']} per step",
        f"FLOPs    {result['gflop_per_image']:.2f} GFLOP per image, {result['tflop_per_second']:.3f} TFLOP/s"
        + (f", MFU {100 * result['mfu']:.1f} % of the bf16 peak" if result["mfu"] else ", MFU not defined here"),
    ]
    if result["peak_memory_gib"]:
        lines.append(f"memory   {result['peak_memory_gib']:.2f} GiB at the peak")
    return "\n".join(lines)


def _any_dataset(config: Config) -> Dataset:
    """The trainer wants a data set; the digits always exist, and no image of theirs is used."""
    return load_dataset(replace(config.data, dataset="digits", mean=None, std=None))


def _nothing() -> None:
    """A CPU has finished when a call returns."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys that replace the file's")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock runs")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps must be at least 1 and --warmup at least 0")
    try:
        config = load_config(options.config, options.overrides)
        config = resolve(config, _any_dataset(config))
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: PyTorch sees no GPU here; use --device cpu")
        with start_processes(options.device) as processes:
            result = benchmark(config, processes, options.steps, options.warmup)
    except ValueError as error:
        print(f"benchmarks.train_step: {error}", file=sys.stderr)
        return 2
    print(format_result(result))
    if options.json:
        options.json.write_text(
            json.dumps({"config": options.config, "overrides": options.overrides, **result}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
