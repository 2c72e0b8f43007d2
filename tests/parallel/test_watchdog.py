"""Who is named when processes wait for each other too long."""

from typing import Any

import pytest

from soda_fast.parallel.watchdog import report

LIMIT_S = 60.0


def place(point: int, watched_s: float) -> dict[str, Any]:
    return {"point": point, "doing": "a step", "machine": "here", "at": "soda_fast/a.py:1", "watched_s": watched_s}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (place(6, 190.0), "these processes are behind: process 1 on here (a step, in soda_fast/a.py:1). The others"),
        (place(7, 110.0), "these processes are behind: process 1 on here"),
        (place(7, 190.0), "all processes are at the same point: process 0 on here"),
        (None, "these processes are behind: process 1 was never heard of. The others wait: on here"),
    ],
)
def test_who_is_behind(second: dict[str, Any] | None, said: str) -> None:
    """Also one that froze where the others wait for it."""
    assert said in report({0: place(7, 200.0), 1: second}, LIMIT_S)
