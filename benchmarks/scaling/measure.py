"""Measured steps: each in processes of its own, so that compilation and memory do not carry over."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scaling.child import Request, as_json
from benchmarks.scaling.prediction import Links
from benchmarks.suite.process import last_line, run


def measure_step(request: Request, processes: int, threads: int | None, limit_s: float) -> dict[str, Any]:
    """The answer of benchmarks.scaling.child from `processes` on this machine.

    Args:
        threads: of each process; None: as the machine has it.
        limit_s: after as many seconds it is given up.

    Raises:
        ValueError: it failed or took too long; with its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        question.write_text(as_json(request))
        # The address too: torchrun would ask for that of the host's name, which not every machine can resolve.
        here = ["--standalone", "--local-addr", "localhost"]
        command = [sys.executable, "-m", "torch.distributed.run", *here, "--nproc-per-node", str(processes)]
        command += ["-m", "benchmarks.scaling.child", str(question), str(answer)]
        environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        name = f"{processes} processes with {request.process_images} images each"
        log = Path(folder) / "log.txt"
        ended = run(command, limit_s, log, environment, Path.cwd())
        if ended.code != 0 or not answer.exists():
            # All of it, for whoever must find out why.
            print(log.read_text(errors="replace"), file=sys.stderr, flush=True)
        if ended.code is None:
            raise ValueError(f"{name}: not done after {limit_s:.0f} s")
        if ended.code or not answer.exists():
            raise ValueError(f"{name}: exit {ended.code}: {last_line(ended.log)}")
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def links_of(row: dict[str, Any], overlapped: bool) -> Links:
    """The links between processes of one machine as they were measured beside a step."""
    found = row["links"]
    return Links(found["bytes_s"], found["bytes_s"], 0.0, 0.0, found["launch_s"], overlapped)
