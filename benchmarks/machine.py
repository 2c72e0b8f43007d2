"""What a measurement was made on."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

COMMIT_VARIABLE = "SODA_FAST_COMMIT"
"""Names the commit where a copy of the tree has no history."""
_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("benchmarks", "configs", "kernels", "soda_fast")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, threads, versions, commit."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """What $SODA_FAST_COMMIT says; else git's name for the checkout; without git a number of the sources."""
    given = os.environ.get(COMMIT_VARIABLE, "")
    if given:
        return given
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"sources-{sources_digest(_ROOT)[:12]}"


def sources_digest(root: Path) -> str:
    """A number of the code and configurations below a checkout's root: equal where all of these files are."""
    found = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                found.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
                found.update(path.read_bytes())
    return found.hexdigest()
