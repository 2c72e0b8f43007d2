"""Measured steps: each in processes of its own, so that compilation and memory do not carry over."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scaling.child import Request, as_json
from benchmarks.scaling.prediction import Links


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
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m", "benchmarks.scaling.child", str(question), str(answer)]
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
        name = f"{processes} processes with {request.process_images} images each"
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{name}: not done after {limit_s:.0f} s") from error
        if ended.returncode or not answer.exists():
            lines = [line for line in ended.stderr.splitlines() if "Error" in line or "error" in line]
            raise ValueError(f"{name}: exit {ended.returncode}: {lines[-1].strip() if lines else 'it said nothing'}")
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def links_of(row: dict[str, Any], overlapped: bool) -> Links:
    """The links between processes of one machine as they were measured beside a step."""
    found = row["links"]
    return Links(found["bytes_s"], found["bytes_s"], 0.0, 0.0, found["launch_s"], overlapped)
