"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Helpers of the tests (spawn, golden_cases, training.tiny), also in the processes that tests start.
sys.path.insert(0, str(ROOT / "tests"))


def cores() -> int:
    """Cores this process may use: those it is bound to, or a container's quota where that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        granted, period = quota.read_text().split()
        if granted != "max":
            bound = min(bound, max(1, int(granted) // int(period)))
    return bound


def pytest_xdist_auto_num_workers() -> int:
    """`--numprocesses auto`: one test process per core, at most four, for each holds a copy of PyTorch."""
    return min(cores(), 4)


# Before torch is imported: test processes, and those that they start, share the cores instead of each taking all of
# them. Set, not defaulted: a worker inherits what the process that distributes the tests has set for itself.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(min(4, max(1, cores() // _WORKERS)))
os.environ |= {"OMP_NUM_THREADS": _THREADS, "MKL_NUM_THREADS": _THREADS}

import torch  # noqa: E402

# Without a GPU the Triton kernels run in Triton's interpreter. It is chosen when the kernels are first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped, by name, where there is none; slow tests come first."""
    # A long test that begins when all others have ended keeps one core busy and the rest idle.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
