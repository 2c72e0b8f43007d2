"""Images in tar shards: a store's, or those of any WebDataset."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.cache import stamps
from soda_fast.data.image_set import EncodedImages
from soda_fast.store.entries import read_range
from soda_fast.store.layout import ROW, Manifest, SplitRecord, damage
from soda_fast.store.names import member_name, original_name

_OPEN_SHARDS = 256


class ShardImages(EncodedImages):
    """Encoded images in uncompressed tars, found by an index.

    Args:
        shards: the tars.
        index: (M,) layout.ROW, usually memory-mapped; only the labels are copied.
        rows: (N,) which of the index's rows, in which order; None: all.
        names: the images' names before they were stored, one a line.
        files: the tars' descriptors, shared by subsets; None: opened when needed.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        index: NDArray[np.void],
        rows: NDArray[np.int64] | None = None,
        names: Path | None = None,
        files: "OpenFiles | None" = None,
    ) -> None:
        chosen = index if rows is None else index[rows]
        super().__init__(np.array(chosen["label"], np.int64), chosen["height"], chosen["width"])
        self.shards, self.index, self.rows, self.names = shards, index, rows, names
        self._files = files or OpenFiles()

    def content(self, index: int) -> bytes:
        shard, offset, length = self._place(index)
        path = self.shards[shard]
        try:
            return self._files.read(path, offset, length)
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read ({error.strerror}); restore the file, or prepare the data set again"
            ) from error

    def known_plain(self, index: int) -> bool:
        return bool(self.index["plain"][self._row(index)])

    def stamps(self) -> list[object]:
        rows = self.index if self.rows is None else self.index[self.rows]
        return [*stamps(self.shards), hashlib.sha256(rows.tobytes()).hexdigest()]

    def describe(self, index: int) -> str:
        shard, offset, _ = self._place(index)
        found = f"{self.shards[shard]}, {member_name(self.shards[shard], offset)}"
        original = original_name(self.names, self._row(index)) if self.names else None
        return f"{found} ({original})" if original else found

    def subset(self, indices: NDArray[np.int64]) -> "ShardImages":
        rows = indices if self.rows is None else self.rows[indices]
        return ShardImages(self.shards, self.index, rows, self.names, self._files)

    def _row(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def _place(self, index: int) -> tuple[int, int, int]:
        row = self.index[self._row(index)]
        return int(row["shard"]), int(row["offset"]), int(row["length"])


class OpenFiles:
    """Descriptors of the files used last. A file that another thread reads from is not closed under it."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Raises OSError; ValueError for a file that ends before."""
        with self._lock:
            found = self._open.get(path)
            if found is None:
                found = self._open[path] = _Descriptor(path)
                if len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
        return read_range(found.number, offset, length, str(path))


class _Descriptor:
    """A file's descriptor, closed with its last user."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        # os may be gone when the interpreter ends, and then the descriptor is as well.
        if hasattr(self, "number") and os is not None:
            os.close(self.number)


def load_store(folder: Path) -> tuple[ShardImages, ShardImages | None, tuple[str, ...]]:
    """Train, test and the classes' names of a store.

    Raises:
        ValueError: a file is missing, or not what it was when the store was made, as far as its size tells; of an
            index, whose damage would show other images under other labels, as every byte tells.
    """
    manifest = Manifest.read(folder)
    splits = {name: _load_split(folder, split) for name, split in manifest.splits.items()}
    return splits["train"], splits.get("test"), manifest.class_names


def _load_split(folder: Path, split: SplitRecord) -> ShardImages:
    for record in split.files:
        problem = damage(folder, record, every_byte=record is split.index)
        if problem is not None:
            raise ValueError(f"{problem}; remove the folder {folder} and prepare the data set again")
    index = np.load(folder / split.index.file, mmap_mode="r", allow_pickle=False)
    if index.dtype != ROW or index.shape != (split.images,):
        raise ValueError(f"{folder / split.index.file}: is no index of {split.images:,} images; prepare it again")
    return ShardImages([folder / shard.file for shard in split.shards], index, names=folder / split.names.file)
