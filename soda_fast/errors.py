"""What ends a run, apart from a user's mistake (ValueError): each is told in a sentence and has its exit code."""

import os
import signal
import socket

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a run to stop: a scheduler, or a user's Ctrl-C."""
EXIT_FAILED = 1
EXIT_AGAIN = 75
"""Stopped from outside and resumable: sysexits' EX_TEMPFAIL, which schedulers can be told to start again."""
EXIT_INTERRUPTED = 130


class TrainingError(RuntimeError):
    """Training cannot go on; its text says why and what to do."""


class Stopped(BaseException):
    """Training stopped because it was asked to; the same command continues.

    Like KeyboardInterrupt no `Exception`: what handles errors in a library on the way does not take it for one.

    exit_code: what the process should end with.
    """

    excused = False
    """Whether the other processes have been told, as far as they come in time."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type["Stopped"], tuple[str, int]]:
        """It travels to other processes whole."""
        return type(self), (str(self), self.exit_code)


def tell_here(error: BaseException, here: bool) -> None:
    """Decide whether this process is the one of several that tells of `error`."""
    error.told_here = here  # type: ignore[attr-defined]


def is_told_here(error: BaseException) -> bool:
    """Whether this process tells of `error`; where nobody decided, the first process of each machine does.

    Nobody decides until the processes have met, and what is wrong on one machine need not be so on the others.
    """
    here: bool = getattr(error, "told_here", int(os.environ.get("LOCAL_RANK", 0)) == 0)
    return here


def teller(error: BaseException) -> str:
    """Which process tells of `error`, as the beginning of a line; empty where there is one, or one that was chosen."""
    if hasattr(error, "told_here") or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ""
    return f"process {os.environ.get('RANK', 0)} on {socket.gethostname()}: "
