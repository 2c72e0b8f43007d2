"""Threads that compute alone leave the others their own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from soda_fast.data.prefetch import Prefetcher
from soda_fast.data.row_threads import RowThreads
from soda_fast.lone_threads import others_compute_alone
from soda_fast.parallel import start_processes


@pytest.fixture
def three() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_new_threads_within_compute_alone_and_for_good(three: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        with others_compute_alone():
            assert pool.submit(torch.get_num_threads).result() == 1
            with others_compute_alone():
                pass
            assert threads_of_a_new_thread() == 1
            assert torch.get_num_threads() == three
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == threads_of_a_new_thread() == three


def test_the_rows_of_a_batch_are_shared_by_threads_that_each_compute_alone(three: int) -> None:
    found: list[int] = []
    threads = RowThreads(2, "test")
    threads.for_rows(lambda rows: found.append(torch.get_num_threads()), 4, 1)
    threads.close()
    assert found == [1, 1, 1, 1]
    assert torch.get_num_threads() == threads_of_a_new_thread() == three


def test_what_runs_beside_a_training_computes_alone(three: int) -> None:
    """A loader's thread; and gloo's, which the operating system alone can count."""
    with start_processes("cpu") as processes:
        prefetched = Prefetcher(lambda: iter([torch.get_num_threads()]), 1, torch.device("cpu"), lambda item: [])
        assert list(prefetched) == [1]
        prefetched.close()
        assert torch.get_num_threads() == three
        torch.ones(1 << 20).add_(1)  # this thread's own are there
        group, many = processes.host_group(), torch.ones(1 << 20)
        dist.all_gather([torch.empty_like(many)], many, group=group)
        before = threads_here()
        for _ in range(8):  # each of the group's threads has a turn
            dist.all_gather([torch.empty_like(many)], many, group=group)
        assert threads_here() == before
    assert threads_of_a_new_thread() == three


def threads_here() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
