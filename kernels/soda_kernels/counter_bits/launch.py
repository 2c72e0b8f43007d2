"""From positions to words."""

import contextlib

import torch
from torch import Tensor

BLOCK = 256


def counter_bits(seed: int, stream: int, positions: Tensor, count: int) -> Tensor:
    """`count` unsigned 32-bit words for each position: Philox4x32-10 with key `seed`, low word first, and counter
    (word number // 4, stream, low half of the position, high half).

    Args:
        seed: 0 <= seed < 2**64. The kernel is compiled for it: a run has one.
        stream: 0 <= stream < 2**32.
        positions: (N,) int64, non-negative, where Triton runs (see `why_not_triton`).
        count: words per position.

    Returns:
        (N, count) int64 in [0, 2**32).
    """
    from soda_kernels.counter_bits.kernel import philox_words

    positions = positions.contiguous()
    words = torch.empty(positions.shape[0], count, dtype=torch.int64, device=positions.device)
    blocks = -(-count // 4)
    total = positions.shape[0] * blocks
    if total > 0:
        with torch.cuda.device(positions.device) if positions.is_cuda else contextlib.nullcontext():
            philox_words[(-(-total // BLOCK),)](words, positions, total, blocks, count, stream, SEED=seed, BLOCK=BLOCK)
    return words
