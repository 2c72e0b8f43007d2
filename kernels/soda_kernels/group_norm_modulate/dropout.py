"""The dropout mask as a function of (sample's seed, element of the sample): recomputed in backward, never stored.

Each element's 32-bit word is a hash of its index in the sample plus the sample's key: two rounds of multiplying and of
folding the high half into the low, then a last multiplication. The scheme and the constants are C. Wellons'
("Prospecting for Hash Functions", 2018), without his first and last fold, which a comparison with a threshold cannot
see. Nothing depends on the batch: whoever gives a sample the same seed drops the same elements, on whatever process.
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as int64: multiples of it are far apart


def sample_seeds(seed: Tensor, num_samples: int) -> Tensor:
    """One seed a sample, (N,) int64: `seed` itself if it is (N,); if it is 0-d, seeds far apart from one another and
    from those of seed + 1."""
    if seed.ndim == 1:
        return seed
    return seed + torch.arange(num_samples, device=seed.device) * _GOLDEN


def keep_threshold(dropout_p: float) -> int:
    """The smallest 32-bit word that stays."""
    return min(round(dropout_p * 2**32), _MASK)


def keep_mask(seeds: Tensor, shape: torch.Size, dropout_p: float) -> Tensor:
    """Which elements stay.

    Args:
        seeds: (N,) int64.
        shape: (N, C, H, W); a sample's elements are counted in row-major order, whatever the memory layout.
        dropout_p: probability that an element is dropped, 0 <= p < 1.

    Returns:
        Boolean (N, C, H, W) on the seeds' device.
    """
    low, high = _as_int32(seeds), _as_int32(seeds >> 32)
    key = _hash32(low + _hash32(high))
    index = torch.arange(shape[1:].numel(), dtype=torch.int32, device=seeds.device)
    word = _hash32(index + key[:, None])
    # Unsigned words compare as signed ones do with their highest bit turned.
    return ((word ^ _signed(2**31)) >= _signed(keep_threshold(dropout_p) ^ 2**31)).view(shape)


def _hash32(word: Tensor) -> Tensor:
    """On int32 tensors, as unsigned words: products wrap, and shifts fill with zeros."""
    word = word * _signed(0x7FEB352D)
    word = (word ^ ((word >> 15) & 0x1FFFF)) * _signed(0x846CA68B)
    return (word ^ ((word >> 16) & 0xFFFF)) * _signed(0x7FEB352D)


def _as_int32(words: Tensor) -> Tensor:
    """The low halves of int64 words."""
    return (((words & _MASK) ^ 2**31) - 2**31).to(torch.int32)


def _signed(word: int) -> int:
    """The int32 of the same bits."""
    return (word ^ 2**31) - 2**31
