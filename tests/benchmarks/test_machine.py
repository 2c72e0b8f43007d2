"""What a measurement was made with is always named: by git, by hand, or by the sources themselves."""

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import machine
from benchmarks.machine import COMMIT_VARIABLE, describe_machine, sources_digest


def commit() -> str:
    return describe_machine(torch.device("cpu"))["commit"]


def test_a_commit_is_gits_or_the_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    command = ["git", "describe", "--always", "--dirty"]
    asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        assert commit() == asked.stdout.strip()
    monkeypatch.setenv(COMMIT_VARIABLE, "abc1234")
    assert commit() == "abc1234"


def test_without_history_the_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    (tmp_path / "soda_fast").mkdir()
    source = tmp_path / "soda_fast" / "step.py"
    source.write_text("fast = 1")
    first = commit()
    assert first == f"sources-{sources_digest(tmp_path)[:12]}"
    (tmp_path / "soda_fast" / "step.pyc").write_bytes(b"compiled")
    assert commit() == first
    source.write_text("fast = 2")
    assert commit() != first
