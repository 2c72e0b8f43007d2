"""The dropout mask as a function of (seed, element): recomputed in backward, never stored.

Each element's 32-bit word is the `lowbias32` integer hash (C. Wellons, "Prospecting for Hash Functions", 2018) of its
index mixed with both halves of the seed.
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _hash32(x: Tensor) -> Tensor:
    """lowbias32 on int64 tensors that hold unsigned 32-bit words."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def keep_mask(seed: Tensor, shape: torch.Size, dropout_p: float) -> Tensor:
    """Which elements stay.

    Args:
        seed: 0-d int64. A tensor, so that a new seed does not recompile.
        shape: of the activation; elements are counted in its logical (row-major) order, whatever the memory layout.
        dropout_p: probability that an element is dropped, 0 <= p < 1.

    Returns:
        Boolean tensor of that shape on the seed's device.
    """
    index = torch.arange(shape.numel(), device=seed.device)
    low, high = seed & _MASK, (seed >> 32) & _MASK
    word = _hash32((index & _MASK) ^ _hash32(low ^ _hash32(high ^ (index >> 32))))
    return (word >= round(dropout_p * 2**32)).view(shape)
