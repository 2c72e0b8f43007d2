"""What the processes of a run say to each other."""

import errno
import os

import pytest
from spawn import run_in_processes

from soda_fast.errors import TrainingError
from soda_fast.parallel import start_processes


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


ERRORS = (
    ValueError("run.dir"),
    OSError(errno.EACCES, os.strerror(errno.EACCES), "/run"),
    MemoryError(),
    KeyError("loss"),
    NoTraveller("odd", object()),
)


def fail_on_main() -> list[str]:
    found = []
    with start_processes("cpu") as processes:
        assert processes.on_main(os.getpid) == processes.gather(os.getpid())[0]

        def fail(error: BaseException) -> None:
            raise error

        for error in ERRORS:
            try:
                processes.on_main(lambda error=error: fail(error))  # type: ignore[misc]
            except (ValueError, OSError, MemoryError, KeyError, NoTraveller, TrainingError) as raised:
                found.append(repr(raised))
    return found


def test_all_learn_what_the_main_process_found() -> None:
    first, second = run_in_processes(fail_on_main, 2)
    assert first == [repr(error) for error in ERRORS]
    assert second[:-1] == first[:-1]
    assert second[-1] == "TrainingError('process 0: NoTraveller: odd')"
