"""Run one part: a process with a time limit, its last words, and the file that it leaves."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEASH = Path(__file__).with_name("leash.py")
GRACE_S = 5.0
"""Between being asked to end and being made to."""
LOG_CHARACTERS = 4000


@dataclass(frozen=True)
class Ended:
    """How a process ended. code: its exit status; None: its time was over. log: the end of what it printed."""

    code: int | None
    seconds: float
    log: str


def run(
    command: Sequence[str],
    limit_s: float,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Ended:
    """Run a command for at most `limit_s` seconds, then end it and all it has started. That ends too if this process is
    killed.

    What it prints is added to the file `log`. environment: variables beside this process's. folder: where it runs.
    """
    start = time.monotonic()
    with log.open("ab") as file:
        file.write(f"\n$ {shlex.join(command)}\n".encode())
        file.flush()
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, str(LEASH), *command],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    return Ended(code, time.monotonic() - start, tail(log, begin))


def ask(
    command: Sequence[str], request: Mapping[str, Any], limit_s: float, environment: Mapping[str, str] | None = None
) -> tuple[Ended, dict[str, Any] | None]:
    """How a command ended that was given two more arguments, a file with `request` as JSON and one for its answer,
    in this folder; and the answer, or None if it failed: then all that it said is printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered, log = (Path(folder) / name for name in ("request.json", "answer.json", "log.txt"))
        asked.write_text(json.dumps(request))
        ended = run([*command, str(asked), str(answered)], limit_s, log, environment, Path.cwd())
        answer = read_result(answered) if ended.code == 0 else None
        if answer is None:
            # All of it, for whoever must find out why.
            print(log.read_text(errors="replace"), file=sys.stderr, flush=True)
        return ended, answer


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a command on its leash, and all in its session, to end; then draw the leash."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)
    assert process.stdin is not None, "it was started with a pipe"
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)


def tail(log: Path, begin: int) -> str:
    """The end of what a file has from the byte `begin` on."""
    data = log.read_bytes()[begin:]
    return data.decode(errors="replace")[-LOG_CHARACTERS:]


def last_line(log: str) -> str:
    """Of what a process said: the last line that has an error in it, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or ["no message"])[-1]


def read_result(path: Path) -> dict[str, Any] | None:
    """What a part has written; None if there is nothing, or only half of something."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
