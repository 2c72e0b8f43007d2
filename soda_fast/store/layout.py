"""What lies where in a store, and its index.

A store is a folder, NAME-store, renamed into place when whole:

    store.json            data set, classes, counts, and every file with its size and SHA-256
    train-00000.tar ...   images (KEY.jpg, ..) as they were, KEY.cls with the label; any WebDataset reader opens them
    train.index.npy       a row of ROW for each image, in order; read by memory map
    train.names.txt       the images' original names, one JSON string a line
    test-00000.tar ...    the test split, if there is one
    poses.csv             where the camera stood, if that is known (soda_fast/data/poses.py)
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
MANIFEST = "store.json"
POSES = "poses.csv"
# What damaged bytes raise where they are read as JSON and taken apart.
_NO_MANIFEST = (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError)
ROW = np.dtype(
    [
        ("shard", "<i4"),  # number of the tar within its split
        ("plain", "<i4"),  # 1: every decoder reads it alike (structure.py); 0: Pillow must decode it
        ("offset", "<i8"),  # of the image's bytes in the tar
        ("length", "<i8"),
        ("label", "<i8"),
        ("height", "<i8"),  # pixels as stored; 0: the image cannot be read
        ("width", "<i8"),
    ]
)


@dataclass(frozen=True)
class FileRecord:
    """A file of a store. images: in it; 0 for an index."""

    file: str
    bytes: int
    sha256: str
    images: int = 0


@dataclass(frozen=True)
class SplitRecord:
    """A split. unreadable: [name, cause] of images that were found to be none; they are stored all the same."""

    images: int
    unreadable: tuple[tuple[str, str], ...]
    shards: tuple[FileRecord, ...]
    index: FileRecord
    names: FileRecord

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (*self.shards, self.index, self.names)


@dataclass(frozen=True)
class Manifest:
    """store.json."""

    dataset: str
    class_names: tuple[str, ...]
    splits: dict[str, SplitRecord]
    poses: FileRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All of the store but the manifest itself."""
        found = [file for split in self.splits.values() for file in split.files]
        return (*found, *((self.poses,) if self.poses else ()))

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises ValueError: no store.json, or not one of ours."""
        path = folder / MANIFEST
        try:
            tree = json.loads(path.read_bytes())
            if tree["format"] != FORMAT:
                raise ValueError(
                    f"{path}: is of format {tree['format']}, this version reads {FORMAT}; prepare it again"
                )
            splits = {name: _split(split) for name, split in tree["splits"].items()}
            poses = FileRecord(**tree["poses"]) if tree.get("poses") else None
            return cls(tree["dataset"], tuple(tree["class_names"]), splits, poses)
        except _NO_MANIFEST as error:
            raise ValueError(f"{path}: is no manifest of a store ({error}); prepare the data set again") from error


def _split(tree: dict[str, Any]) -> SplitRecord:
    shards = tuple(FileRecord(**shard) for shard in tree["shards"])
    unreadable = tuple((name, cause) for name, cause in tree["unreadable"])
    return SplitRecord(tree["images"], unreadable, shards, FileRecord(**tree["index"]), FileRecord(**tree["names"]))


def store_folder(root: Path, dataset: str) -> Path:
    """Where the store of a data set is, or would be."""
    return root / f"{dataset}-store"


def find_store(root: Path, dataset: str) -> Path | None:
    """The whole store of a data set in `root`, or `root` itself if it is one; None if there is none.

    Raises:
        ValueError: `root` is the store of another data set.
    """
    inside = store_folder(root, dataset)
    if (inside / MANIFEST).is_file():
        return inside
    if not (root / MANIFEST).is_file():
        return None
    found = Manifest.read(root).dataset
    if found != dataset:
        raise ValueError(f"data.root {root}: is a store of {found}, not of {dataset}; set data.dataset={found}")
    return root


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, record: FileRecord, every_byte: bool = True) -> str | None:
    """What is wrong with a file of a store, or None: its size is compared, and every byte, which takes long of tars."""
    path = folder / record.file
    if not path.is_file():
        return f"{path}: is missing"
    if path.stat().st_size != record.bytes:
        return f"{path}: has {path.stat().st_size:,} bytes, had {record.bytes:,} when it was made"
    return None if not every_byte or sha256_of(path) == record.sha256 else f"{path}: has changed since it was made"
