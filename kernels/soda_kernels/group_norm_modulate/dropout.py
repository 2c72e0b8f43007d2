"""The dropout mask as a function of (sample's seed, element of the sample): recomputed in backward, never stored.

Each element's 32-bit word is a hash of its index in the sample plus the sample's key: two rounds of multiplying and of
folding the high half into the low, then a last multiplication. The scheme and the constants are C. Wellons'
("Prospecting for Hash Functions", 2018), without his first and last fold, which a comparison with a threshold cannot
see. Nothing depends on the batch: whoever gives a sample the same seed drops the same elements, on whatever process.
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def sample_seeds(seed: Tensor, num_samples: int) -> Tensor:
    """One seed a sample, (N,) int64: `seed` itself if it is (N,); seed, seed + 1, ... if it is 0-d."""
    if seed.ndim == 1:
        return seed
    return seed + torch.arange(num_samples, device=seed.device)


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
    index = torch.arange(shape[1:].numel(), device=seeds.device) & _MASK
    key = _hash32((seeds & _MASK) + _hash32((seeds >> 32) & _MASK))
    return (_hash32(index + key[:, None]) >= keep_threshold(dropout_p)).view(shape)


def _hash32(word: Tensor) -> Tensor:
    """On int64 tensors whose low 32 bits count."""
    word = ((word & _MASK) * 0x7FEB352D) & _MASK
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _MASK
    return ((word ^ (word >> 16)) * 0x7FEB352D) & _MASK
