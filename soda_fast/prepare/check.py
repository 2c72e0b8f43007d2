"""What `prepare --check` looks at: the files of a store, and its images."""

from pathlib import Path

from soda_fast.data.shard_images import ShardImages
from soda_fast.store.entries import Entry, FileRange
from soda_fast.store.layout import Manifest, damage
from soda_fast.store.names import all_names


def changed_files(folder: Path) -> list[str]:
    """What is wrong with the files of a store, one sentence each."""
    return [problem for file in Manifest.read(folder).files if (problem := damage(folder, file)) is not None]


def shard_entries(images: ShardImages) -> list[Entry]:
    """The images of shards, as entries to be checked."""
    names = all_names(images.names) if images.names else None
    return [
        Entry(
            names[number] if names else images.describe(number),
            int(row["label"]),
            int(row["length"]),
            0,
            FileRange(str(images.shards[row["shard"]]), int(row["offset"]), int(row["length"])),
        )
        for number, row in enumerate(images.index)
    ]
