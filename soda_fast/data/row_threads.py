"""Threads that share the rows of a batch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

from soda_fast.lone_threads import others_compute_alone


class RowThreads:
    """A pool whose threads compute alone: PyTorch's own threads would multiply with them, and wait for one another.

    Args:
        threads: how many.
        name: what the threads are called.
    """

    def __init__(self, threads: int, name: str) -> None:
        self.threads, self._pool = threads, ThreadPoolExecutor(threads, thread_name_prefix=name)
        all_there = threading.Barrier(threads)

        def start() -> None:
            torch.get_num_threads()  # PyTorch's answer is this thread's for good
            all_there.wait()

        with others_compute_alone():
            for started in [self._pool.submit(start) for _ in range(threads)]:
                started.result()

    def for_rows(self, work: Callable[[slice], None], count: int, most: int) -> None:
        """Call `work` with slices that cover `count` rows, each of at most `most`; the threads get equally many."""
        parts = max(1, -(-count // most))
        parts = -(-parts // self.threads) * self.threads
        bounds = [count * part // parts for part in range(parts + 1)]
        slices = [slice(start, end) for start, end in pairwise(bounds) if end > start]
        for done in [self._pool.submit(work, rows) for rows in slices]:
            done.result()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)
