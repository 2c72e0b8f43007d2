"""Run a function in several gloo processes and collect what each returns.

They start at once: forked from a process that has imported everything already, and has no threads yet.
"""

import itertools
import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from soda_fast.__main__ import leave

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["soda_fast.train", "soda_fast.cli", "nvidia.dali.fn", "sklearn.datasets"])


def run_in_processes(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """`function(*arguments)` in `world_size` processes with torchrun's environment; results in order of rank.

    `function` must be importable, and return something picklable (tensors are fine).
    """
    with tempfile.TemporaryDirectory() as folder:
        shared = (world_size, free_port(), folder, dict(os.environ), function, arguments)
        mp.start_processes(_entry, shared, nprocs=world_size, start_method="forkserver")
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world_size)]


def _entry(
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.clear()  # what the process this one is forked from was started with
    os.environ |= environment
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    result = function(*arguments)
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(result))
    leave(0)


_ports = itertools.count(os.getpid())  # not where another test run on this machine began


def free_port() -> int:
    """A port that no other test process chooses: between asking for a free one and listening on it, another could."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        # Below the range from which systems hand out ports; 1000 for each of at most twelve test processes.
        port = 20_000 + 1000 * (worker % 12) + next(_ports) % 1000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
