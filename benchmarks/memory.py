"""The memory of a training step, predicted and measured: python -m benchmarks.memory --config configs/cifar10.yaml

On a GPU the peak is the allocator's own, of the fourth step. On a CPU it is counted from the step's allocations, as the
prediction is: that compares fake tensors with real ones, and is no measurement of a GPU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.json_file import write_json
from benchmarks.machine import describe_machine
from benchmarks.synthetic import EPOCH_IMAGES, synthetic_parts
from soda_fast.config import Config, load_config, warmup_images
from soda_fast.memory import predict_memory
from soda_fast.memory.simulation import measure_memory
from soda_fast.parallel import start_processes
from soda_fast.training.determinism import kernel_choice
from soda_fast.training.step import TrainStep

GIB = 2**30
STEPS_BEFORE = 3  # compilation, the optimizer's state, cuDNN's choice of algorithms


def measured_bytes(config: Config, device: str) -> int:
    """The peak of one step after a few."""
    with kernel_choice(config.train.deterministic), start_processes(device) as processes:
        step = TrainStep(config, processes, warmup_images(config, EPOCH_IMAGES))
        parts = synthetic_parts(config, processes.device)
        for _ in range(STEPS_BEFORE):
            step(parts)
        if device == "cpu":
            return measure_memory(step, parts).peak
        torch.cuda.reset_peak_memory_stats()
        step(parts)
        return torch.cuda.max_memory_allocated()


def compare(config: Config, device: str) -> dict[str, Any]:
    """Both figures, as JSON holds them."""
    # Measured first: the prediction has a process group of its own.
    measured = measured_bytes(config, device)
    plan = predict_memory(config, device=device)
    return {
        "machine": describe_machine(torch.device(device)),
        "setting": plan.setting,
        "batch_images": config.train.global_batch_images,
        "predicted_gib": plan.peak_bytes / GIB,
        "measured_gib": measured / GIB,
        "at_peak_gib": {kind: size / GIB for kind, size in plan.usage.at_peak.items()},
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys that replace the file's")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_intermixed_args()
    try:
        config = load_config(options.config, options.overrides)
        result = compare(config, "cuda" if torch.cuda.is_available() else "cpu")
    except ValueError as error:
        print(f"benchmarks.memory: {error}", file=sys.stderr)
        return 2
    predicted, measured = result["predicted_gib"], result["measured_gib"]
    print(
        f"{result['setting']}, batch {result['batch_images']}: predicted {predicted:.3f} GiB, "
        f"measured {measured:.3f} GiB ({100 * (predicted / measured - 1):+.1f} %)"
    )
    if options.json:
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
