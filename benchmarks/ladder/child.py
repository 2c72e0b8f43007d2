"""One rung in a process of its own, so that neither its failure nor its leavings reach the others.

python -m benchmarks.ladder.child REQUEST.json ANSWER.json
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceilings import matrix_rate
from benchmarks.json_file import write_json
from benchmarks.ladder.images import find_images
from benchmarks.ladder.measure import Limits, measure_rung
from benchmarks.ladder.rungs import rung_named
from benchmarks.machine import describe_machine
from soda_fast.__main__ import leave
from soda_fast.config import load_config
from soda_fast.parallel import start_processes
from soda_fast.train import resolve


@dataclass(frozen=True)
class Request:
    """What to measure.

    rung: its name; empty: the machine's matrix rate instead. device: "cuda" or "cpu". synthetic_images: 0 for the
    configuration's. real_loader: or batches that lie on the device. batch: replaces the configuration's, if not 0.
    """

    config: str
    overrides: list[str]
    device: str
    rung: str = ""
    synthetic_images: int = 0
    real_loader: bool = True
    seconds: float = Limits.seconds
    batch: int = 0


def answer(request: Request) -> dict[str, Any]:
    """Measure, in this process.

    Raises:
        ValueError: the configuration, its images or DALI are missing or wrong.
    """
    device = torch.device(request.device)
    if not request.rung:
        return {"machine": describe_machine(device), "ceiling": matrix_rate(device)}
    config = load_config(request.config, request.overrides)
    if request.batch:
        config = replace(config, train=replace(config.train, global_batch_images=request.batch))
    dataset, images = find_images(config, request.synthetic_images)
    with start_processes(request.device) as processes:
        measured = measure_rung(
            rung_named(request.rung),
            resolve(config, dataset),
            dataset,
            processes,
            replace(Limits(), seconds=request.seconds),
            request.real_loader,
        )
    return {"images": images if request.real_loader else "random batches on the device", **measured}


def main() -> int:
    """Read the request, write the answer; what failed is an answer too."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        found = {"status": "measured", **answer(request)}
    except torch.OutOfMemoryError as error:
        found = {"status": "out of memory", "error": str(error).splitlines()[0]}
    except ValueError as error:
        found = {"status": "failed", "error": str(error)}
    write_json(Path(sys.argv[2]), found)
    return 0


if __name__ == "__main__":
    leave(main())
