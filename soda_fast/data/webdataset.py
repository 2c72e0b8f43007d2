"""Tar shards as WebDataset has them: images with KEY.cls or KEY.json beside each, in one tar.

KEY.jpg, .jpeg, .png, .webp, .bmp, .tif or .tiff.

They are read where they are. What lies where is indexed once, beside the shards, or in the user's cache where
that folder cannot be written.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.cache import cached, reading, stamps
from soda_fast.data.folder import both_splits
from soda_fast.data.shard_images import ShardImages
from soda_fast.store import tar_index, workers
from soda_fast.store.layout import ROW
from soda_fast.store.suffixes import LISTED

# Each class has a name and a row of the probes, whether images are there or not.
MOST_EMPTY_CLASSES = 2**20
_VERSION, _INDEX = 1, "index.npy"


def load_webdataset(root: Path) -> tuple[ShardImages, ShardImages | None, tuple[str, ...]]:
    """Train, test and the classes' names, which are the labels as numbers.

    Shards of train are root/train/*.tar or root/train-*.tar, of test those of test, else of val; where there are none
    of train, root/*.tar. Samples come in the order of the shards' names, and within a shard as they are.

    Raises:
        ValueError: no shards, a shard that is damaged or compressed, a sample without a label, labels that are ids, or
            a test class that train lacks.
    """
    train_shards = _shards(root, "train") or sorted(root.glob("*.tar"))
    if not train_shards:
        raise ValueError(f"data.root {root}: holds no train/*.tar, no train-*.tar and no *.tar")
    train = _load(root, "train", train_shards)
    test_shards = _shards(root, "test") or _shards(root, "val")
    test = _load(root, "test", test_shards) if test_shards else None
    classes = int(train.labels.max()) + 1
    if classes > max(MOST_EMPTY_CLASSES, len(train)):
        raise ValueError(
            f"data.root {root}: the largest label is {classes - 1}, and train holds {len(train):,} images: labels are "
            "classes' numbers; if these are ids, number the classes from 0 on, and make the shards again"
        )
    if test is not None and test.labels.max() >= classes:
        raise ValueError(f"data.root {root}: test has label {test.labels.max()}, train only 0 to {classes - 1}")
    return train, test, tuple(str(label) for label in range(classes))


def note_of(root: Path) -> str | None:
    """What a user should know of how the splits were found."""
    return both_splits(root, bool(_shards(root, "test")), bool(_shards(root, "val")))


def _shards(root: Path, split: str) -> list[Path]:
    return sorted((root / split).glob("*.tar")) or sorted(root.glob(f"{split}-*.tar"))


def _load(root: Path, split: str, shards: list[Path]) -> ShardImages:
    key = [_VERSION, stamps(shards)]
    folder = cached(root, f"{split}-index", key, lambda folder: np.save(folder / _INDEX, _index(shards)))
    with reading(folder):
        return ShardImages(shards, np.load(folder / _INDEX, mmap_mode="r", allow_pickle=False))


def _index(shards: list[Path]) -> NDArray[np.void]:
    tasks = [(number, str(path)) for number, path in enumerate(shards)]
    rows = [row for part in workers.run(tar_index.rows_of, tasks, len(tasks), "indexing shards") for row in part]
    if not rows:
        raise ValueError(f"{shards[0].parent}: its shards hold no {LISTED} file")
    return np.array(rows, ROW)
