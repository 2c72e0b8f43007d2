"""What is derived from a data set once and read by every process: beside it, or in the user's cache."""

import hashlib
import json
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

from soda_fast.locks import hold


def cached(root: Path, name: str, key: object, make: Callable[[Path], None]) -> Path:
    """A folder made from a data set by the first process that asks for it; the others wait.

    Where the file system has no locks, which is told, each makes it for itself, and the first one's is kept.

    Args:
        root: the data set's folder; where it cannot be written, $XDG_CACHE_HOME/soda_fast or ~/.cache/soda_fast.
        name: what it is. One folder of each name is kept.
        key: what it depends on, as JSON has it; if that changes, it is made again.
        make: fills an empty folder.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    final = _place(root) / f".soda-fast-{name}-{digest}"
    with _alone(final.with_name(f".soda-fast-{name}.lock")) as is_alone:
        if not final.is_dir():
            leftovers = final.parent.glob(f".soda-fast-{name}.*tmp") if is_alone else ()
            for outdated in (*leftovers, *final.parent.glob(f".soda-fast-{name}-*")):
                if outdated != final:
                    shutil.rmtree(outdated, ignore_errors=True)
            _make(final, final.with_name(f".soda-fast-{name}.{socket.gethostname()}-{os.getpid()}.tmp"), make)
    return final


def _make(final: Path, temporary: Path, make: Callable[[Path], None]) -> None:
    """Fill a folder of this process's own, force it to disk, and only then give it its name."""
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    try:
        make(temporary)
        for path in temporary.iterdir():
            _sync(path)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():  # where nobody is alone, another process may have been first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside, a folder that `cached` gave is read. Raises ValueError, which names it, where its files are damaged."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TokenError) as error:
        # Not what numpy says: of bytes that could be a pickle it tells how to run them.
        cause = error.strerror if isinstance(error, OSError) else "a file in it is not what was written"
        raise ValueError(f"{folder}: is damaged ({cause}); remove this folder, and it is made again") from error


def stamps(paths: Sequence[Path]) -> list[object]:
    """What tells a file from one that was changed: its path, size and time. Raises ValueError for a missing one.

    However the way to the files is spelled (relative, through a link), they have the same path here.
    """
    found: list[object] = []
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
        found.append([str(folders[path.parent] / path.name), status.st_size, status.st_mtime_ns])
    return found


def _place(root: Path) -> Path:
    if os.access(root, os.W_OK):
        return root
    # Empty is the same as unset, says the XDG Base Directory Specification.
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "soda_fast" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Wait until no other process holds `path`, and hold it; False, with a warning, where there are no locks."""
    with path.open("w") as file:
        no_locks = hold(file.fileno(), wait=True)
        if no_locks:
            warnings.warn(
                f"the file system of {path.parent} cannot lock ({no_locks}): processes that start together may each "
                "make what one could make for all",
                stacklevel=4,
            )
        yield no_locks is None
