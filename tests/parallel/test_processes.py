"""What the processes of a run say to each other."""

import pytest
from spawn import run_in_processes

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
