"""Trainings in processes of their own that start at once: forked from one that has imported everything already."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from spawn import forkserver, free_port

PATIENCE_S = 300.0
"""How long to wait for what must come: on a busy machine a minute is short, and only a hang takes this long."""


def train(
    tree: dict[str, Any],
    *options: str,
    limits: Mapping[int, int] | None = None,
    prepare: Callable[[], None] | None = None,
) -> ForkServerProcess:
    """`soda-fast train` of a configuration; what it prints goes to RUN.log.

    limits: of the process, by resource.RLIMIT_*: bytes, for RLIMIT_AS beyond what it has at the start.
    prepare: called in the process beforehand; importable.
    """
    return _start(_command, tree, options, dict(limits or {}), {}, prepare)


def train_together(
    tree: dict[str, Any],
    world_size: int,
    limits: Mapping[int, Mapping[int, int]] | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[ForkServerProcess]:
    """The same in several processes, with torchrun's environment. limits: of each process, by its rank."""
    port = free_port()
    everyone = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1"}
    everyone["MASTER_PORT"] = str(port)
    return [
        _start(
            _command,
            tree,
            (),
            dict((limits or {}).get(rank, {})),
            {**everyone, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            prepare,
        )
        for rank in range(world_size)
    ]


def log(tree: dict[str, Any]) -> str:
    """What the trainings of this run directory have printed."""
    path = _log_path(tree)
    return path.read_text() if path.exists() else ""


def wait_for_steps(tree: dict[str, Any], steps: int, process: ForkServerProcess) -> None:
    """Until metrics.jsonl has this many lines."""
    metrics, until = Path(tree["run"]["dir"]) / "metrics.jsonl", time.monotonic() + PATIENCE_S
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        assert process.is_alive(), log(tree)
        assert time.monotonic() < until, log(tree)
        time.sleep(0.005)


def ends_with(process: ForkServerProcess) -> int | None:
    """The exit code; None, after killing it, if it does not end."""
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        return None
    return process.exitcode


def _log_path(tree: dict[str, Any]) -> Path:
    return Path(tree["run"]["dir"]).with_suffix(".log")


def _start(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    process = forkserver.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def _command(
    tree: dict[str, Any],
    options: tuple[str, ...],
    limits: dict[int, int],
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    import torch

    from soda_fast.cli import main

    os.environ |= environment
    torch.set_num_threads(1)
    output = _log_path(tree)
    config = output.with_suffix(f".{environment.get('RANK', 0)}.yaml")
    config.write_text(json.dumps(tree))
    for kind, value in limits.items():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + value if kind == resource.RLIMIT_AS else value
        resource.setrlimit(kind, (limit, limit))
    # The file descriptors, not sys.stdout: what torch's C++ prints counts too.
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if prepare is not None:
        prepare()
    status = main(["train", str(config), *options])
    sys.stdout.flush()
    os._exit(status)
