"""Threads that compute alone.

In PyTorch each thread that computes gets threads of its own, one a core. Once there are more of them than cores, OpenMP
lets all of them sleep between two operations, the training's too: a step of small networks on two cores then takes
twice as long, however little the other thread computes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def others_compute_alone() -> Iterator[None]:
    """A thread whose first computation falls within gets no threads of its own, for good; the calling one keeps its."""
    # PyTorch has one number for all, which a thread takes over at its first question, and one for each thread; who sets
    # a thread's sets that for all too. So the calling thread asks first, and others read and set.
    torch.get_num_threads()
    before = _elsewhere(torch.get_num_threads)
    _elsewhere(lambda: torch.set_num_threads(1))
    try:
        yield
    finally:
        _elsewhere(lambda: torch.set_num_threads(before))


def _elsewhere(ask: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()
