"""Run one part: a process with a time limit, its last words, and the file that it leaves."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GRACE_S = 5.0
"""Between being asked to end and being made to."""
LOG_CHARACTERS = 4000


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: its exit status; None: its time was over. log: the end of what it printed."""

    code: int | None
    seconds: float
    log: str


def run(command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command from the repository's root for at most `limit_s` seconds, then end it and all it has started.

    What it prints is added to the file `log`.
    """
    start = time.monotonic()
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(command)}\n".encode())
        file.flush()
        begin = file.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    return Ended(code, time.monotonic() - start, _tail(log, begin))


def end_group(process: "subprocess.Popen[Any]") -> None:
    """Ask a process that leads a session, and all in that session, to end, and make them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)


def _tail(log: Path, begin: int) -> str:
    data = log.read_bytes()[begin:]
    return data.decode(errors="replace")[-LOG_CHARACTERS:]


def read_result(path: Path) -> dict[str, Any] | None:
    """What a part has written; None if there is nothing, or only half of something."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
