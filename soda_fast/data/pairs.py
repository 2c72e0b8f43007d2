"""Pairs of different images of one object: which image is the target of which source.

The source of a position is the image whose turn it is (order.py); its target is any other image of the same label,
each with the same probability, drawn from (seed, position) alone. So every image is the source once in an epoch.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast import counter_rng
from soda_fast.data.image_set import ImageSet


class Pairs:
    """Draws partners.

    Args:
        labels: (N,) int64 of all images, at least two of each label that occurs.
    """

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self._by_object = np.argsort(labels, kind="stable")
        ordered = labels[self._by_object]
        starts = np.searchsorted(ordered, ordered)
        ends = np.searchsorted(ordered, ordered, side="right")
        # Of each image: where its object's images begin in _by_object, its own place among them, how many they are.
        self._start, self._place, self._count = (np.empty(len(labels), np.int64) for _ in range(3))
        self._start[self._by_object] = starts
        self._place[self._by_object] = np.arange(len(labels)) - starts
        self._count[self._by_object] = ends - starts

    def draw(self, seed: int, positions: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The partners (N,) of the images at `indices` (N,), which stand at `positions` (N,) of the run."""
        where = torch.from_numpy(np.ascontiguousarray(positions, np.int64))
        draws = counter_rng.uniform(seed, "pairs", where, 1).numpy()[:, 0]
        count = self._count[indices]
        ahead = 1 + np.floor(draws * (count - 1)).astype(np.int64)
        return self._by_object[self._start[indices] + (self._place[indices] + ahead) % count]


def check_pairs(images: ImageSet, class_names: tuple[str, ...]) -> None:
    """Refuse a training split in which an object has no two images that can be read.

    Raises:
        ValueError: names the object.
    """
    readable = np.bincount(images.labels[images.heights > 0], minlength=len(class_names))
    for label in np.unique(images.labels).tolist():
        if readable[label] < 2:
            raise ValueError(
                f"data.pairs is true, but of object {class_names[label]} there is {readable[label]} readable training "
                "image, and a pair needs two; add images, remove the object, or set data.pairs=false"
            )
