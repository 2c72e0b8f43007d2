"""Processes started by hand, so that the store goes with the first: when one is told to stop, all leave as it does."""

import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
import torch.multiprocessing as mp
from forked import PATIENCE_S
from spawn import run_in_processes
from training.tiny import tiny_tree

from soda_fast.config import config_from_tree
from soda_fast.errors import Stopped, TrainingError, is_told_here
from soda_fast.parallel import parting, start_processes, word
from soda_fast.parallel import processes as processes_module
from soda_fast.parallel.parting import part
from soda_fast.train import train
from soda_fast.training.signals import StopRequest

SOON_S = 0.3


def wait_for_the_others() -> None:
    """However long they take on a busy machine."""
    processes_module._LAST_MEETING = timedelta(seconds=PATIENCE_S)
    parting._LAST_QUESTIONS_S = PATIENCE_S


def how_it_ends(action: Any, patience_s: float = PATIENCE_S) -> tuple[str, int, bool]:
    """The text and code of the Stopped that an action ends with, and whether this process tells of it.

    patience_s: how long after the word it ends in any case.
    """
    wait_for_the_others()
    word._PATIENCE_S = patience_s
    try:
        with StopRequest() as stop:
            action(stop)
    except Stopped as error:
        return str(error), error.exit_code, is_told_here(error)
    raise AssertionError("it was not stopped")


def assert_all_stopped(ends: list[tuple[str, int, bool]], code: int = 75) -> None:
    assert {(text, exit_code) for text, exit_code, _ in ends} == {(ends[0][0], code)}
    assert ends[0][0].startswith("stopped by SIGTERM before the first step")
    assert [told for *_, told in ends].count(True) == 1


def signal_soon() -> None:
    threading.Timer(SOON_S, os.kill, (os.getpid(), signal.SIGTERM)).start()


def stop_between_collectives(who: int) -> tuple[str, int, bool]:
    def work(stop: StopRequest) -> None:
        with start_processes("cpu") as processes:
            processes.barrier()
            if processes.rank == who:
                signal_soon()
                time.sleep(60)
            processes.barrier()

    return how_it_ends(work)


@pytest.mark.parametrize("who", [0, 1])
def test_between_collectives(who: int) -> None:
    assert_all_stopped(run_in_processes(stop_between_collectives, 3, who))


def stop_while_the_others_are_late(who: int) -> tuple[str, int, bool]:
    def work(stop: StopRequest) -> None:
        if int(os.environ["RANK"]) == who:
            signal_soon()
        else:
            time.sleep(4 * SOON_S)
        with start_processes("cpu") as processes:
            processes.barrier()

    return how_it_ends(work, 0.5 if who else PATIENCE_S)  # nothing fails on the first, which ends by the word


def test_while_the_others_are_late() -> None:
    assert_all_stopped(run_in_processes(stop_while_the_others_are_late, 2, 0))


def ended_by_the_word(function: Any, *arguments: Any) -> int:
    """Which process ended without having noticed."""
    with pytest.raises(mp.ProcessExitedException) as ended:
        run_in_processes(function, 2, *arguments)
    assert ended.value.exit_code == 75
    return ended.value.error_index


def test_while_the_first_is_late() -> None:
    """It waits in PyTorch for the other's address."""
    assert ended_by_the_word(stop_while_the_others_are_late, 1) == 0


def stop_while_cuda_starts(who: int) -> tuple[str, int, bool]:
    def starting() -> bool:
        signal_soon()
        time.sleep(60)
        return False

    if int(os.environ["RANK"]) == who:
        torch.cuda.is_available = starting

    def work(stop: StopRequest) -> None:
        with start_processes(timeout_minutes=0.2) as processes:
            processes.barrier()

    return how_it_ends(work)


def test_while_cuda_starts() -> None:
    assert_all_stopped(run_in_processes(stop_while_cuda_starts, 2, 0))


def stop_while_a_group_is_made(which: int) -> tuple[str, int, bool]:
    """Of process 1, when its `which`th group is connected and PyTorch has not been given it yet."""
    make = c10d.ProcessGroupGloo

    class OneOfThose(type):
        def __instancecheck__(cls, group: object) -> bool:  # PyTorch asks
            return isinstance(group, make)

    class Interrupted(metaclass=OneOfThose):
        made = 0

        def __new__(cls, *arguments: Any, **named: Any) -> Any:
            Interrupted.made += 1
            if Interrupted.made != which:
                return make(*arguments, **named)
            return (make(*arguments, **named), signal.raise_signal(signal.SIGTERM), time.sleep(SOON_S))[0]

    if os.environ["RANK"] == "1":
        c10d.ProcessGroupGloo = Interrupted

    def work(stop: StopRequest) -> None:
        with start_processes("cpu") as processes:
            processes.barrier()
            dist.barrier(processes.host_group())

    return how_it_ends(work)


@pytest.mark.parametrize("which", [1, 2])
def test_while_a_group_is_made(which: int) -> None:
    """The others must not see it lost before it says that it was told to stop."""
    assert_all_stopped(run_in_processes(stop_while_a_group_is_made, 2, which))


def stop_while_the_data_open(who: int, folder: Path) -> tuple[str, int, bool]:
    def opening(*_: object) -> None:
        signal_soon()
        time.sleep(60)

    if int(os.environ["RANK"]) == who:
        train.__globals__["load_dataset"] = opening
    return how_it_ends(lambda stop: train(config_from_tree(tiny_tree(folder, 2)), stop=stop))


def test_while_the_data_open(tmp_path: Path) -> None:
    assert_all_stopped(run_in_processes(stop_while_the_data_open, 2, 0, tmp_path))


def stop_while_it_joins(name: str, folder: Path) -> tuple[str, int, bool]:
    """Of the first process, where `name` is called on the way to the others."""
    place = train.__globals__ if name == "start_processes" else vars(processes_module)
    call = place[name]

    def interrupted(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return call(*arguments, **named)

    if os.environ["RANK"] == "0":
        place[name] = interrupted
    return how_it_ends(lambda stop: train(config_from_tree(tiny_tree(folder, 2)), stop=stop))


@pytest.mark.parametrize("name", ["start_processes", "Listener"])
def test_while_it_joins(name: str, tmp_path: Path) -> None:
    """Between two steps there is no moment in which a signal leaves the others waiting."""
    assert_all_stopped(run_in_processes(stop_while_it_joins, 2, name, tmp_path))


def end_one_after_the_other() -> str:
    wait_for_the_others()
    with tempfile.TemporaryFile("w+") as printed:
        os.dup2(printed.fileno(), 2)  # not sys.stderr: what torch's C++ prints counts too
        with start_processes("cpu") as processes:
            processes.barrier()
            time.sleep(4 * word._LOOK_S * processes.rank)
        printed.seek(0)
        return printed.read()


def test_a_good_end_is_quiet() -> None:
    """The first process, with which the store goes, waits until the other has ceased to ask it."""
    assert run_in_processes(end_one_after_the_other, 2) == ["", ""]


def wait_for_the_one_before() -> tuple[str, bool]:
    """The last goes without a word. The first misses it, the second misses the first."""
    wait_for_the_others()
    try:
        with start_processes("cpu") as processes:
            processes.barrier()
            if processes.rank < 2:
                dist.recv(torch.zeros(1), src=(processes.rank - 1) % 3)
    except TrainingError as error:
        return str(error), is_told_here(error)
    return "", False


def test_who_misses_a_process_that_misses_another_is_quiet() -> None:
    """The store is gone when it notices, and it would take itself for the first."""
    (first, told), second, _ = run_in_processes(wait_for_the_one_before, 3)
    assert "another process of this run was lost" in first
    assert told
    assert second == (first, False)


class GoneStore:
    """Counts how often it is asked."""

    asked = 0

    def clone(self) -> "GoneStore":
        return self

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        raise dist.DistNetworkError("gone")


def test_a_store_that_is_gone_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word, "_LOOK_S", 0.01)
    store = GoneStore()
    listener = word.Listener(store)  # type: ignore[arg-type]
    listener.start()
    listener._thread.join(PATIENCE_S)
    assert listener.close() is None
    assert store.asked == 1


def wait_where_nothing_fails(printed: Path) -> None:
    word._PATIENCE_S = 0.5
    if os.environ["RANK"] == "1":
        sys.stdout = printed.open("w")
        print("not written yet")
    with suppress(Stopped), start_processes("cpu") as processes:
        processes.barrier()
        if processes.rank == 0:
            raise Stopped("stopped by SIGTERM", 75)
        time.sleep(60)


def test_who_does_not_notice_ends_by_the_word(tmp_path: Path) -> None:
    assert ended_by_the_word(wait_where_nothing_fails, tmp_path / "printed") == 1
    assert (tmp_path / "printed").read_text() == "not written yet\n"


@pytest.mark.parametrize(
    ("error", "told"), [(ValueError("run.dir"), True), (dist.DistNetworkError("gone"), False), (Stopped("", 75), False)]
)
def test_who_has_heard_the_word_tells_of_its_own_mistake(error: BaseException, told: bool) -> None:
    raised = error
    try:
        part(dist.HashStore(), 1, 2, error, heard=Stopped("stopped by SIGTERM", 75))
    except Stopped as lost:
        raised = lost
    assert is_told_here(raised) == told


def test_who_never_comes_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found_nobody = "the processes of the run did not find each other"
    with pytest.raises(TrainingError, match=found_nobody), start_processes("cpu", timeout_minutes=1 / 60):
        pass
