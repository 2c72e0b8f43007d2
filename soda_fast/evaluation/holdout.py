"""A slice of the training set to judge probes on during training, so that the test split stays untouched."""

import zlib

import numpy as np
from numpy.typing import NDArray

_STREAM = zlib.crc32(b"evaluation/holdout")


def stratified_holdout(
    labels: NDArray[np.integer], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices so that every class gives about `fraction` of its images.

    A class of two images or more has at least one on each side; the image of a class with one is never held out.

    Args:
        labels: (N,) integers, any values.
        fraction: share held out, between 0 and 1.
        seed: of the choice, which depends on nothing else.

    Returns:
        (fit_indices, held_out_indices): int64, rising, disjoint, together 0..N-1.

    Raises:
        ValueError: labels are not a list of integers, fraction is out of range, or no class has two images.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype} of the shape {labels.shape}: give one integer for each image")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}: hold out a share between 0 and 1")
    random = np.random.Generator(np.random.Philox(key=np.array([seed, _STREAM], dtype=np.uint64)))
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) >= 2:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held_out[random.permutation(members)[:count]] = True
    if not held_out.any():
        raise ValueError(f"no class of {len(labels)} images has two of them, so none can be held out")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
