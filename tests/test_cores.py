"""Threads and processes are counted from the cores that there are for this process."""

import os
from pathlib import Path

import pytest

from soda_fast import cores


@pytest.mark.parametrize(
    ("quota", "available", "whole"),
    [
        ("max 100000", 4.0, 4),
        ("250000 100000", 2.5, 2),
        ("50000 100000", 0.5, 1),
        ("900000 100000", 4.0, 4),
        ("", 4.0, 4),
    ],
)
def test_a_binding_and_a_quota_count(
    quota: str, available: float, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    assert cores.available_cores() == 4.0, "no container"
    (tmp_path / "cpu.max").write_text(quota)
    assert (cores.available_cores(), cores.whole_cores()) == (available, whole)


def test_where_nothing_is_bound_the_machines_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    assert cores.whole_cores() == 6
