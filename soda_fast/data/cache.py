"""What is derived from a data set once and read by every process: beside it, or in the user's cache."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def cached(root: Path, name: str, key: object, make: Callable[[Path], None]) -> Path:
    """A folder made from a data set by the first process that asks for it; the others wait.

    Args:
        root: the data set's folder; where it cannot be written, $XDG_CACHE_HOME/soda_fast or ~/.cache/soda_fast.
        name: what it is. One folder of each name is kept.
        key: what it depends on, as JSON has it; if that changes, it is made again.
        make: fills an empty folder.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    final = _place(root) / f".soda-fast-{name}-{digest}"
    with _alone(final.with_name(f".soda-fast-{name}.lock")):
        if not final.is_dir():
            temporary = final.with_name(f".soda-fast-{name}.tmp")
            for outdated in (temporary, *final.parent.glob(f".soda-fast-{name}-*")):
                shutil.rmtree(outdated, ignore_errors=True)
            temporary.mkdir()
            try:
                make(temporary)
                for path in temporary.iterdir():
                    _sync(path)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return final


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
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`, and hold it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
