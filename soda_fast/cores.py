"""How many cores this process may use. The standard library alone: worker processes import it."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> float:
    """Those it is bound to, or a container's quota where that is less; a quota can be a fraction."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, *period = _QUOTA.read_text().split()
    except (OSError, ValueError):  # no container of this kind
        return float(bound)
    return float(bound) if quota == "max" or not period else min(float(bound), int(quota) / int(period[0]))


def whole_cores() -> int:
    """For numbers of threads and processes: `available_cores`, rounded down, and at least one."""
    return max(1, int(available_cores()))
