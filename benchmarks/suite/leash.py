"""Runs a command, and when whoever started it is gone, ends all that came of it: leash.py COMMAND ...

Standard input is the leash: a pipe whose other end the starter holds. When it closes, if only because the starter was
killed, everything is killed that the command has started, processes in sessions of their own included. The same when
the command has ended. Run as a file: it must be quick to start.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_STAT_AFTER_NAME = 2  # of /proc/PID/stat, from the closing bracket on: state, parent


def main() -> int:
    """The command's exit status; 128 and the signal's number, if one ended it."""
    _adopt_orphans()
    # Handlers, not SIG_IGN, which the command would inherit: it gets the group's signals itself, and time to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, daemon=True).start()
    code = command.wait()
    end_descendants()
    return code if code >= 0 else 128 - code


def _watch() -> None:
    while os.read(0, 1):
        pass
    end_descendants()
    os._exit(128 + signal.SIGKILL)


def _adopt_orphans() -> None:
    """Let grandchildren whose parents are gone come to this process, not to init; on Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Kill everything below this process, until nothing is left: one may start another meanwhile."""
    while below := descendants(os.getpid()):
        for pid in below:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def descendants(pid: int) -> set[int]:
    """Of a process, as /proc has them; those that have ended and wait to be noticed are left out."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:_STAT_AFTER_NAME]
            if state not in "ZX":
                parents[int(folder.name)] = int(parent)
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


if __name__ == "__main__":
    sys.exit(main())
