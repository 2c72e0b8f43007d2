"""What a half-made store is being made of: written before its first shard, gone from the finished store."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from soda_fast.files import write_atomically
from soda_fast.store.shard import Task

_NOTE = "begun.json"


def digest_of(class_names: Sequence[str], poses: str | None, tasks: Sequence[Task]) -> str:
    """SHA-256 of what is to be in a store: another one for other names, labels, sizes or times of images."""
    plans = [(task.file, task.plan) for task in tasks]
    return hashlib.sha256(json.dumps([list(class_names), poses, plans]).encode()).hexdigest()


def begin(partial: Path, source: str, digest: str) -> bool:
    """Note what the store in `partial` is made of; whether an earlier attempt was made of the same.

    Args:
        partial: the construction site.
        source: what a person calls the source.
        digest: of its images.

    Raises:
        ValueError: an earlier attempt, of which there are finished shards, has another source.
    """
    note = partial / _NOTE
    before, digest_before = _read(note)
    if digest_before == digest:
        return True
    if before is not None and any((partial / "parts").glob("*.json")):
        if before != source:
            raise ValueError(
                f"{partial}: was begun from {before}, and {source} holds other images; finish it from there, or remove "
                "this folder to begin anew"
            )
        print(f"{source} is not as it was when {partial} was begun: shards of changed images are made again")
    write_atomically(note, json.dumps({"source": source, "digest": digest}).encode())
    return False


def forget(partial: Path) -> None:
    """Of an attempt that has finished no shard, nothing needs to be known."""
    if not any((partial / "parts").glob("*.json")):
        (partial / _NOTE).unlink(missing_ok=True)


def _read(note: Path) -> tuple[str | None, str | None]:
    """Source and digest; None where there is no note."""
    try:
        found = json.loads(note.read_bytes())
        return str(found["source"]), str(found["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
