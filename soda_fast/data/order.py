"""Who comes when. Position p of the run is in epoch p // num_samples, and every epoch has an order of its own."""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Positions = TypeVar("Positions", NDArray[np.int64], Tensor)

_ORDER_KEY = 0x0DE2  # keeps the orders apart from other uses of (seed, number) in NumPy's Philox
_TARGET_BIT = 48  # positions stay below: a run of 2**48 images would take a million of them a second for nine years


def sample_indices(seed: int, positions: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
    """Which sample stands at each position of the run; a batch may straddle epochs.

    Args:
        seed: of the run, 0 <= seed < 2**63.
        positions: (N,) int64, non-negative.
        num_samples: samples of the data set, positive.

    Returns:
        (N,) int64 in 0..num_samples-1; every num_samples positions from a multiple of num_samples hold each once.
    """
    epochs, places = np.divmod(positions, num_samples)
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(seed, int(epoch), num_samples)[places[here]]
    return indices


def local_positions(
    start: int, global_batch: int, rank: int, world: int, part: int = 0, parts: int = 1
) -> NDArray[np.int64]:
    """The positions that one process takes from the global batch at start..start+global_batch-1.

    A process takes every world-th position from start + rank on, and cuts its share into consecutive parts. The global
    batch is a multiple of world * parts.

    Returns:
        (global_batch / world / parts,) int64, rising.
    """
    assert global_batch % (world * parts) == 0, "check_world_size (config/rules.py) refuses others"
    share = np.arange(start + rank, start + global_batch, world, dtype=np.int64)
    size = len(share) // parts
    return share[part * size : (part + 1) * size]


def target_positions(positions: Positions, number: int) -> Positions:
    """Where target `number` of each sample draws its plan and its noise: no two targets of a run at the same place.

    The first one's are the samples' own positions, whatever the number of targets, so that runs of different
    `data.targets_per_source` share the targets that both have.

    Args:
        positions: (N,) int64, of the samples.
        number: of the target, from 0.
    """
    return positions + (number << _TARGET_BIT)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_samples: int) -> NDArray[np.int64]:
    # The sequence (entropy, spawn key) is hashed into a Philox key: epochs are independent of one another.
    sequence = np.random.SeedSequence(seed, spawn_key=(_ORDER_KEY, epoch))
    # Raw words sorted, not Generator.permutation: NumPy promises the former, and not the latter, to stay as they are.
    return np.argsort(np.random.Philox(sequence).random_raw(num_samples), kind="stable")
