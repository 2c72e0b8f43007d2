"""What a machine is, as found, and its ceilings: python -m benchmarks.environment

GPU, driver, clocks and power limit; versions; cores and memory. Then, measured, what nothing on this machine can beat:
the bandwidth of a copy in the GPU's memory, and the rate of a large matrix product.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceilings import matrix_rate
from benchmarks.gpu_timing import copy_bandwidth
from benchmarks.json_file import write_json
from benchmarks.machine import describe_machine
from benchmarks.packages import left_out
from soda_fast.cores import whole_cores

PACKAGES = ("torch", "torchvision", "triton", "nvidia-dali-cuda130", "ema-pytorch", "numpy", "pydantic", "soda-fast")
# As nvidia-smi names them.
QUERIES = (
    "name",
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
    "persistence_mode",
)


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the software, as JSON holds them. Measures nothing."""
    return {
        **describe_machine(device),
        "cores": whole_cores(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "kernel": platform.release(),
        "packages": {name: _version(name) for name in PACKAGES},
        "left_out": left_out(),
        "gpu": _nvidia_smi() if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
    }


def ceilings(device: torch.device) -> dict[str, Any]:
    """Bytes a second of a copy, read and written, and operations a second of a matrix product: measured."""
    return {"copy_bytes_per_second": copy_bandwidth(device), "matrix": matrix_rate(device)}


def machine_name(device: torch.device) -> str:
    """The machine's folder in the ledger: the GPU's name, or the processor's and its cores."""
    name = str(describe_machine(device)["device"])
    if device.type == "cpu":
        name = f"cpu {name} {whole_cores()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> dict[str, str] | None:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(QUERIES, (value.strip() for value in said.splitlines()[0].split(",")), strict=False))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environment", description=__doc__)
    parser.add_argument("--json", type=Path, help="write it here as well")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = {**describe(device), "ceilings": ceilings(device)}
    print(json.dumps(result, indent=1))
    if options.json:
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
