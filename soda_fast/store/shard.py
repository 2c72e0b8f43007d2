"""One tar of a store, written by a worker process: the same bytes for the same images, whenever and wherever."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from soda_fast.files import naming, sync_directory, write_atomically
from soda_fast.store.entries import Entry
from soda_fast.store.layout import FileRecord, damage
from soda_fast.store.pictures import inspect
from soda_fast.store.suffixes import SUFFIXES

_BLOCK = 512
_SUFFIXES = (
    *((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"BM", ".bmp")),
    *((b"II*\0", ".tif"), (b"MM\0*", ".tif")),
)
Row = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True)
class Task:
    """A shard to be made. number: in its split. first: number of its first image in the split."""

    folder: Path
    split: str
    number: int
    first: int
    entries: Sequence[Entry]

    @property
    def file(self) -> str:
        return f"{self.split}-{self.number:05d}.tar"

    @property
    def record_path(self) -> Path:
        """What is known of the finished shard; gone from a finished store."""
        return self.folder / "parts" / f"{self.file}.json"

    @cached_property
    def plan(self) -> str:
        """A digest of what is to be in the shard: it changes when a source file does."""
        digest = hashlib.sha256(f"{self.first}\n".encode())
        for entry in self.entries:
            digest.update(json.dumps(entry[:4]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Shard:
    """A finished shard. rows: as layout.ROW. unreadable: [name, cause]."""

    record: FileRecord
    rows: list[Row]
    unreadable: list[tuple[str, str]]


def finished(task: Task) -> Shard | None:
    """The shard of a task if an earlier attempt finished it, every byte compared; None if it is to be made."""
    try:
        tree = json.loads(task.record_path.read_bytes())
        if tree["plan"] != task.plan:
            return None
        record = FileRecord(**tree["record"])
        rows, unreadable = [tuple(row) for row in tree["rows"]], [(name, cause) for name, cause in tree["unreadable"]]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return None if damage(task.folder, record) is not None else Shard(record, rows, unreadable)


def write_shard(task: Task, advance: Callable[[], None]) -> Shard:
    """Write the tar beside its place, rename it, then write its record.

    Args:
        task: what to write.
        advance: called after each image.

    Raises:
        ValueError, OSError: a source cannot be read; names it.
    """
    temporary = task.folder / f".{task.file}.{os.getpid()}.tmp"
    digest = hashlib.sha256()
    rows: list[Row] = []
    unreadable: list[tuple[str, str]] = []
    at = 0
    # Around all of it: a file that could not be written whole says so once more when it is closed.
    with naming(temporary), temporary.open("wb", buffering=1 << 20) as file:

        def write(pieces: Iterable[bytes]) -> None:
            nonlocal at
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                at += len(piece)

        for place, entry in enumerate(task.entries):
            content = entry.origin.read()
            seen = inspect(content)
            if seen.cause:
                unreadable.append((entry.name, seen.cause))
            key = f"{task.first + place:09d}"
            write(_member(key + _suffix(content, entry.name), content))
            offset = at - len(content) - _padding(content)
            rows.append((task.number, int(seen.plain), offset, len(content), entry.label, seen.height, seen.width))
            write(_member(key + ".cls", str(entry.label).encode()))
            advance()
        write([bytes(2 * _BLOCK)])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(task.folder / task.file)
    sync_directory(task.folder)
    record = FileRecord(task.file, at, digest.hexdigest(), len(rows))
    tree = {"plan": task.plan, "record": asdict(record), "rows": rows, "unreadable": unreadable}
    write_atomically(task.record_path, json.dumps(tree).encode())
    return Shard(record, rows, unreadable)


def stored_bytes(entry: Entry) -> int:
    """What an image takes in a tar, with its label."""
    return 3 * _BLOCK + -(-entry.size // _BLOCK) * _BLOCK


def _suffix(content: bytes, name: str) -> str:
    """By content: an image's name may be wrong. Of an unreadable one, the name's."""
    for start, suffix in _SUFFIXES:
        if content.startswith(start):
            return suffix
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in SUFFIXES else ".jpg"


def _member(name: str, content: bytes) -> list[bytes]:
    """Header, content and padding of a tar member without time, owner or anything else that could differ."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return [info.tobuf(tarfile.USTAR_FORMAT), content, bytes(_padding(content))]


def _padding(content: bytes) -> int:
    return -len(content) % _BLOCK
