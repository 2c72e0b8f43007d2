"""`prepare --check`: every image decoded, every byte of a store compared, all that is wrong told at once."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from soda_fast.data.shard_images import ShardImages
from soda_fast.store import workers
from soda_fast.store.entries import Entry, FileRange
from soda_fast.store.layout import Manifest, damage
from soda_fast.store.pictures import PictureError, decode, read_header

_IMAGES_PER_TASK = 500


class Findings(NamedTuple):
    """unreadable: (name, cause). traits: how many images have each unusual trait."""

    unreadable: list[tuple[str, str]]
    traits: Counter[str]


def check_entries(entries: Sequence[Entry], processes: int | None = None) -> Findings:
    """Decode all images, in processes of their own."""
    starts = range(0, len(entries), _IMAGES_PER_TASK)
    tasks = [entries[start : start + _IMAGES_PER_TASK] for start in starts]
    parts = workers.run(_decode_all, tasks, len(entries), "checking", processes)
    unreadable = [found for part in parts for found in part.unreadable]
    return Findings(unreadable, sum((part.traits for part in parts), Counter()))


def _decode_all(entries: Sequence[Entry], advance: Callable[[], None]) -> Findings:
    unreadable: list[tuple[str, str]] = []
    traits: Counter[str] = Counter()
    for entry in entries:
        content = entry.origin.read()
        try:
            traits.update(read_header(content).traits)
            decode(content)
        except PictureError as error:
            unreadable.append((entry.name, str(error)))
        advance()
    return Findings(unreadable, traits)


def changed_files(folder: Path) -> list[str]:
    """What is wrong with the files of a store, one sentence each."""
    files = [file for split in Manifest.read(folder).splits.values() for file in split.files]
    return [problem for file in files if (problem := damage(folder, file)) is not None]


def shard_entries(images: ShardImages) -> list[Entry]:
    """The images of shards, as entries to be checked."""
    names = images.names.read_text(encoding="utf-8").splitlines() if images.names else None
    return [
        Entry(
            json.loads(names[number]) if names else images.describe(number),
            int(row["label"]),
            int(row["length"]),
            0,
            FileRange(str(images.shards[row["shard"]]), int(row["offset"]), int(row["length"])),
        )
        for number, row in enumerate(images.index)
    ]
