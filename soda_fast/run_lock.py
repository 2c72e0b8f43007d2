"""One training at a time in a run directory."""

import json
import os
import socket
from pathlib import Path

from soda_fast.locks import hold

LOCK_NAME = ".lock"


class RunLock:
    """An advisory lock (flock) on RUN/.lock, which says who holds it.

    The system gives it back when the process ends, however it ends: no lock is ever left behind. On NFS it holds
    between machines too where the server locks; on a file system that cannot lock, `acquire` says so.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> str | None:
        """Take the lock; a warning if the file system has none.

        Raises:
            ValueError: another process trains in this directory, or it cannot be written to.
        """
        path = self.directory / LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            no_locks = hold(descriptor, wait=False)
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace")
            os.close(descriptor)
            raise ValueError(
                f"run.dir {self.directory}: another training is at work there ({_describe(holder)}); wait for it, "
                "stop it, or choose another run.dir"
            ) from error
        if no_locks:
            os.close(descriptor)
            return (
                f"the file system of {self.directory} cannot lock ({no_locks}): nothing prevents a second training in "
                "the same run.dir"
            )
        holder_now = json.dumps({"process": os.getpid(), "machine": socket.gethostname()})
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder_now.encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise self._unwritable(error) from error
        self._descriptor = descriptor
        return None

    def _unwritable(self, error: OSError) -> ValueError:
        return ValueError(f"run.dir {self.directory}: cannot be written ({error.strerror}); choose another run.dir")

    def release(self) -> None:
        """Give the lock back; nothing to do if it was never taken."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _describe(holder: str) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['process']} on {found['machine']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
