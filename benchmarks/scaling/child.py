"""Measured steps, each in processes of its own, so that compilation and memory do not carry over.

One process, started by torchrun: -m benchmarks.scaling.child REQUEST.json ANSWER.json
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.json_file import write_json
from benchmarks.suite.process import ask, last_line
from benchmarks.synthetic import EPOCH_IMAGES, synthetic_parts
from benchmarks.timing import spread, timed, waiter
from soda_fast.__main__ import leave
from soda_fast.config import load_config, warmup_images
from soda_fast.parallel import Processes, start_processes
from soda_fast.training.step import TrainStep

_SMALL_BYTES, _LARGE_BYTES = 1 << 10, 1 << 24


@dataclass(frozen=True)
class Request:
    """What to measure. process_images: of each process in a step. steps: timed, after warmup_steps."""

    config: str
    overrides: list[str]
    device: str
    process_images: int
    steps: int
    warmup_steps: int


def answer(request: Request, processes: Processes) -> dict[str, Any]:
    """The step's time, the slowest process's, and what the links carry."""
    config = load_config(request.config, request.overrides)
    batch = request.process_images * processes.world_size
    config = replace(config, train=replace(config.train, global_batch_images=batch))
    wait = waiter(processes.device)
    step = TrainStep(config, processes, warmup_images(config, EPOCH_IMAGES))
    parts = synthetic_parts(config, processes.device, processes.world_size)
    seconds = timed(lambda: step(parts), wait, request.steps, request.warmup_steps, before=dist.barrier)
    slowest = [max(values) for values in zip(*processes.gather([*spread(seconds)]), strict=True)]
    return {
        "processes": processes.world_size,
        "process_images": request.process_images,
        "step_s": {"lower_quartile": slowest[0], "median": slowest[1], "upper_quartile": slowest[2]},
        "links": measure_links(processes, wait) if processes.world_size > 1 else None,
    }


def measure_links(processes: Processes, wait: Callable[[], None]) -> dict[str, float]:
    """A gather of little, whose time is the launch and the hops, and of much, for the bytes a second of a process."""

    def gather(size: int) -> float:
        whole = torch.zeros(size, device=processes.device)
        shard = torch.zeros(size // processes.world_size, device=processes.device)
        whole = whole[: len(shard) * processes.world_size]
        taken = timed(lambda: dist.all_gather_into_tensor(whole, shard), wait, 9, 3, before=dist.barrier)
        return statistics.median(taken)

    small, large = gather(_SMALL_BYTES // 4), gather(_LARGE_BYTES // 4)
    n = processes.world_size
    rate = (n - 1) / n * (_LARGE_BYTES - _SMALL_BYTES) / max(large - small, 1e-9)
    slowest = processes.gather([small, rate])
    return {"launch_s": max(one[0] for one in slowest), "bytes_s": min(one[1] for one in slowest)}


def measure_step(request: Request, processes: int, threads: int | None, limit_s: float) -> dict[str, Any]:
    """The answer of benchmarks.scaling.child from `processes` on this machine.

    Args:
        threads: of each process; None: as the machine has it.
        limit_s: after as many seconds it is given up.

    Raises:
        ValueError: it failed or took too long; with its last words.
    """
    # The address too: torchrun would ask for that of the host's name, which not every machine can resolve.
    here = ["--standalone", "--local-addr", "localhost"]
    command = [sys.executable, "-m", "torch.distributed.run", *here, "--nproc-per-node", str(processes)]
    command += ["-m", "benchmarks.scaling.child"]
    environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    ended, answer = ask(command, asdict(request), limit_s, environment)
    if answer is not None:
        return answer
    name = f"{processes} processes with {request.process_images} images each"
    if ended.code is None:
        raise ValueError(f"{name}: not done after {limit_s:.0f} s")
    raise ValueError(f"{name}: exit {ended.code}: {last_line(ended.log)}")


def main() -> int:
    """Read the request; the first process writes the answer."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    with start_processes(request.device) as processes:
        found = answer(request, processes)
        if processes.is_main:
            write_json(Path(sys.argv[2]), found)
        processes.barrier()
    return 0


if __name__ == "__main__":
    leave(main())
