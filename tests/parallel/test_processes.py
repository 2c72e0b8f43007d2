"""What the processes of a run say to each other."""

import errno
import os
from datetime import timedelta

import pytest
import torch
from spawn import run_in_processes

from soda_fast.errors import Stopped, TrainingError
from soda_fast.parallel import start_processes
from soda_fast.training.finite import NonFiniteError


def require(values: list[str]) -> str:
    with start_processes("cpu") as processes:
        try:
            processes.require_equal(values[processes.rank], "the images", "look at data.root")
        except ValueError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a", "a", "a"], ""),
        (["a", "b", "a"], "the images of processes 1 differ from those of process 0; look at data.root"),
    ],
)
def test_all_learn_that_values_differ(values: list[str], said: str) -> None:
    assert run_in_processes(require, 3, values) == [said] * 3


class NoTraveller(Exception):
    """Cannot be pickled: it is made from two values and passes one on."""

    def __init__(self, text: str, more: object) -> None:
        super().__init__(text)


class Counted(Exception):
    """Makes a sentence of its number; pickle would make it again from the sentence."""

    def __init__(self, images: int) -> None:
        super().__init__(f"after {images:,} images")


ERRORS = (
    ValueError("run.dir"),
    OSError(errno.EACCES, os.strerror(errno.EACCES), "/run"),
    MemoryError(),
    KeyError("loss"),
    Stopped("stopped by SIGTERM", 75),
    NonFiniteError(24_000),
    NoTraveller("odd", object()),
    Counted(24_000),
)


def described(error: BaseException) -> str:
    return repr(error) + repr(getattr(error, "exit_code", ""))


def fail_on_main() -> list[str]:
    found = []
    with start_processes("cpu") as processes:
        assert processes.on_main(os.getpid) == processes.gather(os.getpid())[0]

        def fail(error: BaseException) -> None:
            raise error

        for error in ERRORS:
            try:
                processes.on_main(lambda error=error: fail(error))  # type: ignore[misc]
            except BaseException as raised:
                found.append(described(raised))
    return found


def test_all_learn_what_the_main_process_found() -> None:
    first, second = run_in_processes(fail_on_main, 2)
    assert first == [described(error) for error in ERRORS]
    assert second[:-2] == first[:-2]
    assert second[-2] == described(TrainingError("process 0: NoTraveller: odd"))
    assert second[-1] == described(TrainingError("process 0: Counted: after 24,000 images"))


def test_all_groups_have_the_runs_patience() -> None:
    with start_processes("cpu", timeout_minutes=7) as processes:
        options = processes.host_group()._get_backend(torch.device("cpu")).options
        assert options._timeout == processes.timeout == timedelta(minutes=14)
