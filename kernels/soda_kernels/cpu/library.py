"""The C of this folder as functions: compiled once for a machine, kept in the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

FOLDER = Path(__file__).parent
# No contraction: a fused multiplication and addition rounds once, where PyTorch rounds twice.
FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fPIC", "-shared")
_LIMIT_S = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """The functions of this folder's C, during which other threads run; None, with a warning, where there is no
    compiler, or what it makes cannot be kept."""
    try:
        found = ctypes.CDLL(str(_compiled(_compiler(), cache_folder())))
    # The last is of a user without a home.
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        warnings.warn(f"NumPy does what C would do several times faster on this CPU: {error}", stacklevel=2)
        return None
    pointer, size, word = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32
    found.draw_polar.argtypes, found.draw_polar.restype = (*[pointer] * 3, size, size, word, word, word), None
    found.join_pairs.argtypes, found.join_pairs.restype = (*[pointer] * 4, size), None
    found.fill_planes.argtypes, found.fill_planes.restype = (*[pointer] * 3, size, size), None
    found.resize_boxes.argtypes, found.resize_boxes.restype = (*[pointer] * 6, *[size] * 5), None
    found.change_images.argtypes, found.change_images.restype = (*[pointer] * 4, size, size), None
    return found


def cache_folder() -> Path:
    """Where compiled code of this package lies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soda_fast"


def _compiler() -> list[str]:
    """The command that $CC names, or the first compiler on the path."""
    commands = [shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]]
    found = [command for command in commands if command and shutil.which(command[0])]
    if not found:
        raise FileNotFoundError("there is no C compiler; install gcc, or name one in CC")
    return found[0]


def _compiled(compiler: list[str], folder: Path) -> Path:
    sources, headers = sorted(FOLDER.glob("*.c")), sorted(FOLDER.glob("*.h"))
    contents = [path.read_bytes() for path in (*sources, *headers)]
    made_of = (*contents, *(part.encode() for part in (*compiler, platform.machine(), *FLAGS)))
    path = folder / f"cpu-{hashlib.sha256(b'/'.join(made_of)).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            made = Path(beside) / path.name
            command = [*compiler, *FLAGS, "-o", str(made), *map(str, sources)]
            subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
            made.replace(path)
    return path
