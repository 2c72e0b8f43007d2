"""A store from entries: planned, shared out to processes, continued after an interruption, renamed when whole."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soda_fast.files import sync_directory, write_atomically
from soda_fast.locks import hold
from soda_fast.store import workers
from soda_fast.store.begun import begin, digest_of, forget
from soda_fast.store.entries import Entry
from soda_fast.store.layout import MANIFEST, POSES, ROW, FileRecord, Manifest, SplitRecord, damage, store_folder
from soda_fast.store.shard import Shard, Task, finished, stored_bytes, write_shard

SHARD_IMAGES = 5_000
SHARD_BYTES = 512 << 20
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Contents:
    """What is to be stored. splits: {"train": entries, "test": entries}, without "test" where there is none. poses:
    the text of poses.csv, whose files are the entries' names; None where they are not known. source: where the images
    come from, as a person would say it."""

    dataset: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Entry]]
    poses: str | None = None
    source: str = "this source"


@contextmanager
def construction_site(root: Path, dataset: str) -> Iterator[Path]:
    """The hidden folder in which a store is made; it stays after an interruption, for the next attempt.

    Raises:
        ValueError: another process is at work there.
    """
    partial = root / f".{store_folder(root, dataset).name}.partial"
    (partial / "parts").mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        _hold(descriptor, partial)
        for leftover in [*partial.glob(".*.tmp"), *(partial / "parts").glob(".*.tmp")]:
            leftover.unlink()
        try:
            yield partial
        finally:
            with suppress(OSError):  # of an attempt that made nothing, nothing stays
                forget(partial)
                (partial / "parts").rmdir()
                partial.rmdir()
    finally:
        os.close(descriptor)


def _hold(descriptor: int, folder: Path) -> None:
    """Lock a folder for this process; one that is killed lets go of it. Raises ValueError if another one holds it."""
    try:
        no_locks = hold(descriptor, wait=False)
    except BlockingIOError as error:
        raise ValueError(f"{folder}: another process is making this store; wait for it") from error
    if no_locks:
        print(f"the file system of {folder} cannot lock ({no_locks}): see that no second process makes this store")


def build_store(contents: Contents, partial: Path, final: Path, processes: int | None = None) -> Manifest:
    """Make a store, or finish one that was interrupted.

    Images found unreadable are stored all the same, and listed in its manifest.

    Args:
        contents: what is to be in it.
        partial: the construction site.
        final: the store's folder; made by renaming when all is on disk.
        processes: worker processes; None: one for each core.

    Raises:
        ValueError: the disk is too small, a source is damaged, or the interrupted store is another source's.
    """
    tasks = plan(contents, partial)
    same = begin(partial, contents.source, digest_of(contents.class_names, contents.poses, tasks))
    manifest = _finished_manifest(partial) if same else None
    if manifest is None:
        (partial / MANIFEST).unlink(missing_ok=True)
        manifest = _fill(partial, contents, tasks, processes)
        write_atomically(partial / MANIFEST, manifest.to_json())
    _leave_only(partial, manifest)
    partial.rename(final)
    sync_directory(final.parent)
    return manifest


def plan(contents: Contents, folder: Path) -> list[Task]:
    """The shards of a store: which images come into which depends on their order and sizes alone."""
    tasks = []
    for split, entries in contents.splits.items():
        start = 0
        for number, end in enumerate(_cuts(entries)):
            tasks.append(Task(folder, split, number, start, entries[start:end]))
            start = end
    return tasks


def _cuts(entries: Sequence[Entry]) -> Iterator[int]:
    """Where shards end."""
    start = size = 0
    for place, entry in enumerate(entries):
        if place > start and (place - start == SHARD_IMAGES or size + stored_bytes(entry) > SHARD_BYTES):
            yield place
            start, size = place, 0
        size += stored_bytes(entry)
    yield len(entries)


def _fill(folder: Path, contents: Contents, tasks: Sequence[Task], processes: int | None) -> Manifest:
    kept = {task.file: shard for task in tasks if (shard := finished(task)) is not None}
    missing = [task for task in tasks if task.file not in kept]
    require_space(folder, sum(stored_bytes(entry) for task in missing for entry in task.entries))
    if kept and missing:
        print(f"{len(kept)} of {len(tasks)} shards are there from an earlier attempt, and whole")
    images = sum(len(task.entries) for task in missing)
    made = workers.run(write_shard, missing, images, f"storing {contents.dataset}", processes)
    shards = kept | {task.file: shard for task, shard in zip(missing, made, strict=True)}
    splits = {
        split: _finish_split(folder, split, entries, [shards[task.file] for task in tasks if task.split == split])
        for split, entries in contents.splits.items()
    }
    poses = None if contents.poses is None else _write(folder / POSES, contents.poses.encode())
    return Manifest(contents.dataset, contents.class_names, splits, poses)


def _finish_split(folder: Path, split: str, entries: Sequence[Entry], shards: list[Shard]) -> SplitRecord:
    index = np.array([row for shard in shards for row in shard.rows], ROW)
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    names = "".join(json.dumps(entry.name) + "\n" for entry in entries).encode()
    return SplitRecord(
        images=len(index),
        unreadable=tuple(found for shard in shards for found in shard.unreadable),
        shards=tuple(shard.record for shard in shards),
        index=_write(folder / f"{split}.index.npy", buffer.getvalue()),
        names=_write(folder / f"{split}.names.txt", names),
    )


def _write(path: Path, content: bytes) -> FileRecord:
    write_atomically(path, content)
    return FileRecord(path.name, len(content), hashlib.sha256(content).hexdigest())


def _finished_manifest(folder: Path) -> Manifest | None:
    """The manifest of a store that is whole but for its last steps; None if anything is missing or damaged."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = Manifest.read(folder)
    return None if any(damage(folder, file) for file in manifest.files) else manifest


def _leave_only(folder: Path, manifest: Manifest) -> None:
    """Remove what belongs to the making of a store or to an earlier plan."""
    wanted = {MANIFEST, *(file.file for file in manifest.files)}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()
    sync_directory(folder)


def require_space(folder: Path, needed: int, otherwise: str = "choose another --root") -> None:
    """Raises ValueError where the disk of `folder` has no room for `needed` bytes and a little more.

    otherwise: what a user can do but make room.
    """
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise ValueError(
            f"{folder}: has {free / 1e9:.2f} GB of free space, {(needed + _SPARE_BYTES) / 1e9:.2f} GB are needed; make "
            f"room, or {otherwise}"
        )
