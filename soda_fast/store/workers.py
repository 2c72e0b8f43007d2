"""Processes that share out work on images, with a progress bar, and end with the process that started them."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

from tqdm import tqdm

from soda_fast.cores import whole_cores

T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T, Callable[[], None]], R]
_POLL_S = 0.2


class _Stopped(RuntimeError):
    """The main process gave up."""


# Of a worker process: images done by all, and whether to stop.
_shared: list[Any] = []


def run(work: Work[T, R], tasks: Sequence[T], images: int, title: str, workers: int | None = None) -> list[R]:
    """work(task, advance) for every task, in processes of their own; their results in the tasks' order.

    Args:
        work: a function of a module that is quick to import; calls advance() after each image.
        tasks: what to do.
        images: in all tasks together, for the progress bar.
        title: of the progress bar.
        workers: processes; None: the cores that there are for this, at most the number of tasks.

    Raises:
        ValueError: a worker process was killed. And whatever `work` raises.
    """
    if not tasks:
        return []
    context = get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    count = min(workers or whole_cores(), len(tasks))
    with (
        ProcessPoolExecutor(count, context, _start, (counter, stop)) as pool,
        tqdm(total=images, desc=title, unit="img", unit_scale=True, disable=None) as bar,
    ):
        try:
            futures = [pool.submit(_call, work, task) for task in tasks]
            _follow(futures, counter, bar)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed, perhaps for want of memory; the same command goes on"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _follow(futures: list[Future[Any]], counter: Any, bar: Any) -> None:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
        bar.update(counter.value - bar.n)
        if any(future.exception() for future in done):
            return


def _start(counter: Any, stop: Any) -> None:
    _shared[:] = [counter, stop]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process says what happens
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None, "started by multiprocessing"
    connection.wait([parent.sentinel])
    os._exit(1)


def _call(work: Work[T, R], task: T) -> R:
    counter, stop = _shared

    def advance() -> None:
        with counter.get_lock():
            counter.value += 1
        if stop.is_set():
            raise _Stopped

    return work(task, advance)
