"""Measured steps: each in processes of its own, so that compilation and memory do not carry over."""

import sys
from dataclasses import asdict
from typing import Any

from benchmarks.scaling.child import Request
from benchmarks.scaling.prediction import Links
from benchmarks.suite.process import ask, last_line


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


def links_of(row: dict[str, Any], overlapped: bool) -> Links:
    """The links between processes of one machine as they were measured beside a step."""
    found = row["links"]
    return Links(found["bytes_s"], found["bytes_s"], 0.0, 0.0, found["launch_s"], overlapped)
