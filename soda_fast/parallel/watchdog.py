"""A time limit for progress: when processes wait for each other too long, say who waits for whom, and end."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch.distributed as dist

from soda_fast.errors import EXIT_FAILED
from soda_fast.parallel.processes import Processes

T = TypeVar("T")
_SLOWEST_LOOK_S = 5.0


class Watchdog:
    """Watches, as a context manager, that this process gets on; all processes must pass the same points.

    `progress` costs nothing but two assignments: a thread of its own looks every few seconds. When a process has not
    reached its next point for `limit_s`, every process puts where it is into the store that the processes share; the
    first to see it names those that are behind, and all end. A single process waits for nobody and is not watched.

    Args:
        limit_s: the longest that anything between two points may take, in seconds.
    """

    def __init__(self, processes: Processes, limit_s: float) -> None:
        self._rank, self._world, self._limit_s = processes.rank, processes.world_size, limit_s
        # Where the store does not answer, a look takes twice as long; all is said within twice the limit all the same,
        # after which a collective gives up and its process has nobody to ask.
        self._look_s = min(_SLOWEST_LOOK_S, limit_s / 8)
        # A connection of its own: another thread may be waiting in the processes' one.
        self._store = processes.store.clone() if self._world > 1 else None
        self._point, self._doing, self._since = 0, "starting", time.monotonic()
        self._entered = self._since
        self._main_thread = threading.get_ident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def progress(self, doing: str) -> None:
        """A point is reached; `doing` says what comes now."""
        self._point, self._doing, self._since = self._point + 1, doing, time.monotonic()

    def __enter__(self) -> "Watchdog":
        if self._store is not None:
            self._entered = time.monotonic()
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._store is not None:
            self._thread.join()

    def _watch(self) -> None:
        assert self._store is not None
        store = self._store
        _within(self._look_s, lambda: self._publish(store))  # a process may freeze before its first look
        while not self._done.wait(self._look_s):
            _within(self._look_s, lambda: self._publish(store))
            if time.monotonic() - self._since > self._limit_s:
                # The others reach their limit a little later than the first, and publish where they are.
                if self._done.wait(3 * self._look_s):
                    return
                text = _within(2 * self._look_s, lambda: self._last_words(store))
                if text is None:
                    text = self._alone()
                if text:
                    print(f"soda-fast: {text}", file=sys.stderr, flush=True)
                os._exit(EXIT_FAILED)

    def _last_words(self, store: dist.Store) -> str:
        """The report, for the first process that asks; for the others nothing."""
        self._publish(store)
        return self._report(store) if store.add("watchdog/told", 1) == 1 else ""

    def _alone(self) -> str:
        return (
            f"no progress for {self._limit_s / 60:g} min (parallel.timeout_minutes), and the process that keeps what "
            f"the others say (process 0, or torchrun on its machine) does not answer; process {self._rank} is "
            f"{_where(self._here())}. It ends; start the same command again to go on from the last checkpoint"
        )

    def _here(self) -> dict[str, Any]:
        place = {"point": self._point, "doing": self._doing, "machine": socket.gethostname(), "at": self._location()}
        return {**place, "watched_s": time.monotonic() - self._entered}

    def _publish(self, store: dist.Store) -> None:
        store.set(f"watchdog/{self._rank}", json.dumps(self._here()))

    def _report(self, store: dist.Store) -> str:
        found: dict[int, dict[str, Any] | None] = {}
        for rank in range(self._world):
            key = f"watchdog/{rank}"
            found[rank] = json.loads(store.get(key)) if store.check([key]) else None
        return report(found, self._limit_s)

    def _location(self) -> str:
        """The innermost line of this package that the main thread is in."""
        frame: FrameType | None = sys._current_frames().get(self._main_thread)
        while frame is not None:
            place = frame.f_code.co_filename.replace(os.sep, "/").rpartition("/soda_fast/")
            if place[1]:
                return f"soda_fast/{place[2]}:{frame.f_lineno}"
            frame = frame.f_back
        return "an unknown place"


def _within(seconds: float, action: Callable[[], T]) -> T | None:
    """What `action` returns; None if it fails or takes longer. The store of a frozen process never answers."""
    result: list[T] = []

    def run() -> None:
        with suppress(RuntimeError):  # the store is gone
            result.append(action())

    thread = threading.Thread(target=run, name="watchdog-store", daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None


def report(found: dict[int, dict[str, Any] | None], limit_s: float) -> str:
    """Who is behind, and where everybody is.

    Who has ceased to say where it is, is behind too: when it froze, all may have been at the same point.

    found: for each process what it last published, "watched_s" seconds after all began to; None: it never did.
    """
    furthest = max((place["point"] for place in found.values() if place), default=0)
    heard_s = max((place["watched_s"] for place in found.values() if place), default=0.0) - limit_s
    behind = {
        rank: place
        for rank, place in found.items()
        if place is None or place["point"] < furthest or place["watched_s"] < heard_s
    }
    shown = behind or found
    places = "; ".join(f"process {rank} {_where(place)}" for rank, place in list(shown.items())[:8])
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    others = next((place for rank, place in found.items() if rank not in behind), None)
    waiting = f" The others wait: {_where(others)}." if behind and others else ""
    who = "these processes are behind" if behind else "all processes are at the same point"
    return (
        f"no progress for {limit_s / 60:g} min (parallel.timeout_minutes); {who}: {places}{more}.{waiting} "
        "All processes end; start the same command again to go on from the last checkpoint"
    )


def _where(place: dict[str, Any] | None) -> str:
    if place is None:
        return "was never heard of"
    return f"on {place['machine']} ({place['doing']}, in {place['at']})"
