"""How the processes of one attempt find each other in a store that may remember earlier attempts."""

import json
import threading
import time
import uuid
from concurrent.futures import Future
from datetime import timedelta

import torch.distributed as dist

from soda_fast.errors import TrainingError

_LOOK_S = 0.01
_NOT_MET = "the processes of the run did not find each other, or one was lost; start all of them again"


class Meeting:
    """Meets the others that were started with this process, in a thread of its own: a signal interrupts the wait.

    It begins when it is first asked for the store.

    timeout: the longest to wait for them.
    """

    def __init__(self, rank: int, world_size: int, timeout: timedelta) -> None:
        self._found: Future[dist.Store] = Future()
        self._begun = False
        # As a daemon, which an interpreter does not wait for at its end.
        self._thread = threading.Thread(
            target=self._meet, args=(rank, world_size, timeout), name="meeting", daemon=True
        )

    def store(self, timeout_s: float | None = None) -> dist.Store:
        """The store of all processes of this attempt.

        Raises:
            TrainingError: they did not all come.
            TimeoutError: not all came within `timeout_s`.
        """
        if not self._begun:
            self._begun = True  # before: a signal that interrupts the start does not keep the thread from running
            self._thread.start()
        return self._found.result(timeout_s)

    def _meet(self, rank: int, world_size: int, timeout: timedelta) -> None:
        try:
            store, *_ = next(dist.rendezvous("env://", timeout=timeout))
            self._found.set_result(meet(store, rank, world_size, timeout.total_seconds()))
        except dist.DistError as error:
            self._found.set_exception(TrainingError(f"{_NOT_MET} ({str(error).splitlines()[0]})"))
        except BaseException as error:
            self._found.set_exception(error)


def meet(store: dist.Store, rank: int, world_size: int, timeout_s: float) -> dist.Store:
    """A part of `store` that only the processes of this attempt know.

    When torchrun starts processes again, their store is the one of those that died, with their addresses still in it:
    who reads them before they are written anew waits for a process that is gone. Torchrun's count of restarts does not
    tell attempts apart, because it differs between machines. So every process shows a number that nobody can have
    shown before, the first process writes down those that it sees, and who finds its own there belongs to its attempt.

    Raises:
        TrainingError: not all processes came within the time; names those that are missing.
    """
    mine, until = uuid.uuid4().hex, time.monotonic() + timeout_s
    store.set(f"meeting/shown/{rank}", mine)
    if rank == 0:
        _gather(store, mine, world_size, until)
        return dist.PrefixStore(mine, store)
    while time.monotonic() < until:
        seen = json.loads(store.get("meeting/seen")) if store.check(["meeting/seen"]) else {}
        if seen.get(str(rank)) == mine:
            store.set(f"meeting/found/{rank}", seen["0"])
            return dist.PrefixStore(seen["0"], store)
        time.sleep(_LOOK_S)
    raise TrainingError("the first process of the run did not answer; start all processes again")


def _gather(store: dist.Store, mine: str, world_size: int, until: float) -> None:
    """The first process's part: until every other has found itself in what is written down here."""
    missing = list(range(1, world_size))
    while missing:
        if time.monotonic() > until:
            raise TrainingError(f"processes {', '.join(map(str, missing))} of {world_size} did not start")
        shown = {rank: _read(store, f"meeting/shown/{rank}") for rank in range(1, world_size)}
        store.set("meeting/seen", json.dumps({0: mine, **shown}))
        missing = [rank for rank in missing if _read(store, f"meeting/found/{rank}") != mine]
        time.sleep(_LOOK_S if missing else 0)


def _read(store: dist.Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None
