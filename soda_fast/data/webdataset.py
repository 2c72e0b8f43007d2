"""Tar shards as WebDataset has them: KEY.jpg, .jpeg or .png with KEY.cls or KEY.json, side by side in one tar.

They are read where they are. What lies where is indexed once, in a file beside the shards, or in the user's cache where
that folder cannot be written.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.shard_images import ShardImages
from soda_fast.files import write_atomically
from soda_fast.store import tar_index, workers
from soda_fast.store.layout import ROW

_VERSION = 1


def load_webdataset(root: Path) -> tuple[ShardImages, ShardImages | None, tuple[str, ...]]:
    """Train, test and the classes' names, which are the labels as numbers.

    Shards of train are root/train/*.tar or root/train-*.tar, of test those of test, else of val; where there are none
    of train, root/*.tar. Samples come in the order of the shards' names, and within a shard as they are.

    Raises:
        ValueError: no shards, a shard that is damaged or compressed, a sample without a label, or a test class that
            train lacks.
    """
    train_shards = _shards(root, "train") or sorted(root.glob("*.tar"))
    if not train_shards:
        raise ValueError(f"data.root {root}: holds no train/*.tar, no train-*.tar and no *.tar")
    train = _load(root, "train", train_shards)
    test_shards = _shards(root, "test") or _shards(root, "val")
    test = _load(root, "test", test_shards) if test_shards else None
    classes = int(train.labels.max()) + 1
    if test is not None and test.labels.max() >= classes:
        raise ValueError(f"data.root {root}: test has label {test.labels.max()}, train only 0 to {classes - 1}")
    return train, test, tuple(str(label) for label in range(classes))


def _shards(root: Path, split: str) -> list[Path]:
    return sorted((root / split).glob("*.tar")) or sorted(root.glob(f"{split}-*.tar"))


def _load(root: Path, split: str, shards: list[Path]) -> ShardImages:
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
    digest = hashlib.sha256(json.dumps([_VERSION, stamps]).encode()).hexdigest()[:16]
    cache = _cache_folder(root) / f".soda-fast-{split}-{digest}.npy"
    # One process of a machine reads the shards, the others wait for its index.
    with _alone(cache.with_suffix(".lock")):
        if not cache.is_file():
            content = _index(shards)
            for outdated in cache.parent.glob(f".soda-fast-{split}-*.npy"):
                outdated.unlink()
            write_atomically(cache, content)
    return ShardImages(shards, np.load(cache, mmap_mode="r", allow_pickle=False))


def _index(shards: list[Path]) -> bytes:
    tasks = [(number, str(path)) for number, path in enumerate(shards)]
    rows = [row for part in workers.run(tar_index.rows_of, tasks, len(tasks), "indexing shards") for row in part]
    if not rows:
        raise ValueError(f"{shards[0].parent}: its shards hold no .jpg, .jpeg or .png file")
    index: NDArray[np.void] = np.array(rows, ROW)
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


def _cache_folder(root: Path) -> Path:
    if os.access(root, os.W_OK):
        return root
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "soda_fast" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`, and hold it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
