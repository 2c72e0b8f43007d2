"""The compilers that the doctor names are those that their callers would call."""

from pathlib import Path

import pytest

from soda_fast.doctor.compilers import c_compiler, cxx_compiler, triton_compiler
from soda_fast.doctor.hardware import this_hardware
from soda_kernels.cpu.library import find_compiler


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the only one on the path, for programs; no variable names one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def add(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def test_none(programs: Path) -> None:
    assert (find_compiler(), c_compiler(), triton_compiler(), cxx_compiler()) == (None,) * 4
    assert not this_hardware().cxx


def test_a_compiler_called_cc_compiles_for_cpus_but_not_for_triton(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(programs, "cc")
    assert (find_compiler(), c_compiler(), triton_compiler()) == (["cc"], f"{programs}/cc", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert this_hardware().c


def test_triton_calls_cc_as_it_stands(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With arguments it is no program."""
    add(programs, "gcc", "ccache")
    assert triton_compiler() == f"{programs}/gcc"
    monkeypatch.setenv("CC", "ccache gcc")
    assert (find_compiler(), c_compiler()) == (["ccache", "gcc"], f"{programs}/ccache gcc")
    assert triton_compiler() is None
    monkeypatch.setenv("CC", "ccache 'gcc")
    assert c_compiler() == f"{programs}/gcc"


def test_inductor_looks_for_one_alone(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(programs, "clang++")
    assert cxx_compiler() is None
    add(programs, "g++")
    assert cxx_compiler() == f"{programs}/g++"
    for command, found in (("clang++ -g", f"{programs}/clang++ -g"), ("icpx", None), ("g++ '", None)):
        monkeypatch.setenv("CXX", command)
        assert cxx_compiler() == found
