"""C on a CPU: the numbers that NumPy and PyTorch make, to the last bit, and those where there is no compiler."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from soda_fast import counter_rng
from soda_fast.pixels import look_up
from soda_kernels import counter_normal
from soda_kernels.cpu import library as native

SEED = (123 << 35) + 9


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("normal", "planes"):
        monkeypatch.setattr(f"soda_kernels.cpu.{module}.library", lambda: None)


@pytest.mark.parametrize(("rows", "count"), [(7, 3 * 64 * 64), (7, 77), (1, 1), (300, 4), (2, 40_000), (0, 5)])
def test_normals_are_those_of_numpy(rows: int, count: int) -> None:
    positions = torch.arange(5, 5 + 2 * rows)[::2] + (7 << 33)
    found = counter_normal(SEED, counter_rng.stream_id("noise"), positions, count)
    assert found is not None, "this machine has a C compiler"
    assert torch.equal(found, counter_rng._normal_on_cpu(SEED, counter_rng.stream_id("noise"), positions, count))


def test_normals_without_a_compiler(without_compiler: None) -> None:
    positions = torch.arange(3)
    assert counter_normal(0, 1, positions, 4) is None
    assert counter_rng.normal(0, "noise", positions, (3, 2)).shape == (3, 3, 2)


def test_c_is_not_given_other_numbers_or_too_few() -> None:
    """It would read beyond them."""
    with pytest.raises(AssertionError, match=r"contiguous memory of torch\.int64"):
        counter_normal(SEED, 1, torch.arange(3, dtype=torch.int32), 4)
    with pytest.raises(AssertionError, match="three levels for each place"):
        look_up(torch.empty(1, 3, 4, 4), torch.zeros(1, 4, 3, 3, dtype=torch.uint8), torch.zeros(3, 256))
    with pytest.raises(AssertionError, match="a number for each level"):
        look_up(torch.empty(1, 3, 4, 4), torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, 255))


def planes_of(pixels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    planes = torch.full((len(pixels), 3, *pixels.shape[1:3]), torch.nan)
    look_up(planes, pixels, table)
    return planes


@pytest.mark.parametrize("shape", [(4, 5, 7, 3), (1, 1, 1, 3), (0, 4, 4, 3)])
def test_planes(shape: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    table = torch.randn(3, 256)
    expected = torch.stack([table[channel][pixels[..., channel].long()] for channel in range(3)], dim=1)
    assert torch.equal(planes_of(pixels, table), expected)
    request.getfixturevalue("without_compiler")
    assert torch.equal(planes_of(pixels, table), expected)


COMPILE = """
import sys
from soda_kernels.cpu.library import library
sys.exit(0 if library() is not None else 3)
"""


def compile_in(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    found = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", COMPILE], env=found, capture_output=True, text=True, check=False)


def test_compiled_once_for_a_machine(tmp_path: Path) -> None:
    assert compile_in(tmp_path).returncode == 0
    (made,) = tmp_path.rglob("*.so")
    before = made.stat().st_mtime_ns
    assert compile_in(tmp_path).returncode == 0
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")] == [before]


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a compiler that takes what was compiled before; each of its runs adds a line to this file."""
    real, lines, script = native.library(), tmp_path / "compilations", tmp_path / "counted-cc"
    assert real is not None, "this machine has a C compiler"
    script.write_text(
        f"""#!/bin/sh
echo once >> '{lines}'
sleep 0.3
while [ "$1" != -o ]; do shift; done
cp '{real._name}' "$2"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_loaded", [])
    return lines


def four_at_once(load: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(4) as pool:
        return [call.result() for call in [pool.submit(load) for _ in range(4)]]


def test_processes_at_once_compile_once(compilations: Path) -> None:
    """Threads stand for them: a lock on a file keeps apart whoever opens it anew."""
    assert None not in four_at_once(native._load)
    assert compilations.read_text() == "once\n"


def test_threads_at_once_compile_once_even_without_locks_on_files(
    compilations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(native.fcntl, "flock", refuse)
    (found,) = set(four_at_once(native.library))
    assert found is not None
    assert compilations.read_text() == "once\n"


@pytest.mark.parametrize("cut_short", [True, False], ids=["cut short", "of another machine"])
def test_a_file_that_cannot_be_loaded_is_made_anew_once(
    cut_short: bool, compilations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert native.library() is not None
    (made,) = native.cache_folder().glob("*.so")
    contents = made.read_bytes()
    made.unlink()
    if cut_short:
        made.write_bytes(contents[: len(contents) // 2])
    else:
        foreign = b"\x7fELF of another machine"
        made.with_stem(f"{made.stem.rpartition('-')[0]}-{native._digest(foreign)}").write_bytes(foreign)
    for _ in range(2):
        monkeypatch.setattr(native, "_loaded", [])
        assert native.library() is not None
        assert compilations.read_text() == "once\n" * 2
    assert made.read_bytes() == contents


def test_each_c_library_has_a_file_of_its_own(compilations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.17", "2.39"):
        monkeypatch.setattr(native, "_loaded", [])
        monkeypatch.setattr(native.platform, "libc_ver", lambda version=version: ("glibc", version))
        assert native.library() is not None
    assert len(list(native.cache_folder().glob("*.so"))) == 2


def test_the_file_is_on_disk_before_it_has_its_name(compilations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(native.os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    assert native.library() is not None
    file, folder = synced
    assert (file.suffix, folder) == (".so", native.cache_folder())
    assert file.parent.parent == folder, "in a folder beside, from which it is moved"


def test_a_failed_compilation_is_told_with_the_compilers_last_line(
    compilations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "sh -c 'echo first >&2; echo the last line >&2; exit 1'")
    with pytest.warns(UserWarning, match=r"exit status 1\.: the last line$"):
        assert native.library() is None


def test_an_error_is_told_rather_than_that_the_compiler_stopped(
    compilations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcc where the headers of the C library are missing."""
    missing = "cpu.h:10:10: fatal error: stdint.h: No such file or directory"
    monkeypatch.setenv("CC", f"sh -c 'echo {missing} >&2; echo compilation terminated. >&2; exit 1'")
    with pytest.warns(UserWarning, match=rf"exit status 1\.: {missing}$"):
        assert native.library() is None


def test_a_compiler_that_hides_functions_is_no_error(compilations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: SimpleNamespace(draw_polar=SimpleNamespace()))
    with pytest.warns(UserWarning, match="NumPy and PyTorch do what C would do.*join_pairs"):
        assert native.library() is None


def test_a_command_with_an_open_quote_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", 'gcc "-O3')
    assert native.find_compiler() in (["cc"], ["gcc"], ["clang"])


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_a_missing_or_failing_compiler_is_no_error(tmp_path: Path, compiler: str) -> None:
    """With nothing else on the path that it could be."""
    (tmp_path / "bin").mkdir()
    if path := shutil.which(compiler):
        (tmp_path / "bin" / compiler).symlink_to(path)
    found = compile_in(tmp_path, CC=compiler, PATH=str(tmp_path / "bin"))
    assert found.returncode == 3
    assert "NumPy and PyTorch do what C would do" in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_with_arguments(tmp_path: Path) -> None:
    assert compile_in(tmp_path, CC="cc -g0").returncode == 0
    assert compile_in(tmp_path, CC="no-such-compiler").returncode == 0
    assert len(list(tmp_path.rglob("*.so"))) == 2


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="home directory"):
        assert native._load() is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whatever_the_default_type_is(dtype: torch.dtype) -> None:
    expected = counter_normal(SEED, 1, torch.arange(3), 8)
    torch.set_default_dtype(dtype)
    try:
        found = counter_normal(SEED, 1, torch.arange(3), 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found is not None
    assert torch.equal(found, expected)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "soda_fast").write_text("a file where the folder should be")
    assert compile_in(tmp_path).returncode == 3


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert native.cache_folder() == Path.home() / ".cache" / "soda_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / "soda_fast"
