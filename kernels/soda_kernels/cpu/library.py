"""The C of this folder as functions: compiled once for a machine, kept in the user's cache."""

import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FOLDER = Path(__file__).parent
# No contraction: a fused multiplication and addition rounds once, where PyTorch rounds twice.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fPIC", "-shared")
_LIMIT_S = 120
_POLL_S = 0.1

_loaded: list[ctypes.CDLL | None] = []
_first_call = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The functions of this folder's C, during which other threads run; None, with a warning, where there is no
    compiler, or what it makes cannot be kept. Threads that call while it is compiled wait for it."""
    if not _loaded:
        with _first_call:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> ctypes.CDLL | None:
    try:
        found = _shared_object(_require_compiler(), cache_folder())
        _declare(found)
    # The last two are of a user without a home, and of a compiler that was told to hide functions.
    except (OSError, subprocess.SubprocessError, RuntimeError, AttributeError) as error:
        told = f"NumPy and PyTorch do what C would do several times faster on this CPU: {_reason(error)}"
        warnings.warn(told, stacklevel=3)
        return None
    return found


def _declare(found: ctypes.CDLL) -> None:
    pointer, size, word = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32
    found.draw_polar.argtypes, found.draw_polar.restype = (*[pointer] * 3, size, size, word, word, word), None
    found.join_pairs.argtypes, found.join_pairs.restype = (*[pointer] * 4, size), None
    found.fill_planes.argtypes, found.fill_planes.restype = (*[pointer] * 3, size, size), None
    found.resize_boxes.argtypes, found.resize_boxes.restype = (*[pointer] * 6, *[size] * 5), None
    found.change_images.argtypes, found.change_images.restype = (*[pointer] * 3, size, size), None


def _reason(error: Exception) -> str:
    """What went wrong, and the line that a compiler wrote of it: the last that names an error, else the last."""
    written = error.stderr if isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired)) else None
    lines = [line for line in (written or b"").decode(errors="replace").split("\n") if line.strip()]
    named = [line for line in lines if "error:" in line]
    return ": ".join([str(error), *(named or lines)[-1:]])


def cache_folder() -> Path:
    """Where compiled code of this package lies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soda_fast"


def find_compiler() -> list[str] | None:
    """The command that $CC names, arguments included, or where it names none the first compiler on the path."""
    commands = [_words(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]]
    return next((command for command in commands if command and shutil.which(command[0])), None)


def _words(command: str) -> list[str]:
    """Of a shell's command; none where a quote is open."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _require_compiler() -> list[str]:
    found = find_compiler()
    if found is None:
        raise FileNotFoundError("there is no C compiler; install gcc, or name one in CC")
    return found


def _shared_object(compiler: list[str], folder: Path) -> ctypes.CDLL:
    sources, headers = sorted(FOLDER.glob("*.c")), sorted(FOLDER.glob("*.h"))
    contents = [path.read_bytes() for path in (*sources, *headers)]
    # The C library's version: machines with an older one may share the folder, and cannot load what needs a newer.
    words = (*compiler, platform.machine(), *platform.libc_ver(), *FLAGS)
    name = f"cpu-{_digest(b'/'.join((*contents, *(word.encode() for word in words))))}"
    found = _opened(folder, name)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            # Another process may have made it meanwhile.
            found = _opened(folder, name) or ctypes.CDLL(str(_compile(compiler, sources, folder, name)))
    return found


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()[:16]


def _opened(folder: Path, name: str) -> ctypes.CDLL | None:
    """None where no such file is there, or it is damaged, or cannot be loaded on this machine."""
    for path in folder.glob(f"{name}-*.so"):
        try:
            # To load a file that was cut short would end the process: SIGBUS, no error.
            if path.stem == f"{name}-{_digest(path.read_bytes())}":
                return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def _compile(compiler: list[str], sources: list[Path], folder: Path, name: str) -> Path:
    """Compile in a folder beside, force the file to disk, and only then give it its name, with its contents' digest."""
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        made = Path(beside) / f"{name}.so"
        command = [*compiler, *FLAGS, "-o", str(made), *map(str, sources)]
        subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
        _sync(made)
        path = made.replace(folder / f"{name}-{_digest(made.read_bytes())}.so")
    _sync(folder)
    return path


def _sync(path: Path) -> None:
    """Force a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process compiles in this folder, but no longer than a compiler may take."""
    with (folder / "cpu.lock").open("w") as file:
        give_up = time.monotonic() + _LIMIT_S
        while not _locked(file) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether this process holds the file's lock now, or there is none to be had: some file systems have no locks.
    Without one several processes may compile at once, each in a folder of its own."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
