"""Random numbers that are a function of what they are for, not of who draws them or when.

Every number is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) at

    key     = (seed & 0xffffffff, seed >> 32)
    counter = (element // 4, crc32(stream), position & 0xffffffff, position >> 32)

so a sample at a position of the run gets the same numbers on any process, in any batch, before and after a resume.
"""

import math
import zlib

import torch
from torch import Tensor

from soda_kernels import counter_bits, why_not_triton

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def stream_id(name: str) -> int:
    """The 32-bit number of a named stream ("noise", "source/crop", ...)."""
    return zlib.crc32(name.encode())


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10 on int64 tensors that hold unsigned 32-bit words; returns four such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit products wrap in int64; their bits are right, and the mask removes the sign extension.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((product1 >> 32) & _MASK) ^ c1 ^ k0, ((product0 >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = product1 & _MASK, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def bits(seed: int, stream: str, positions: Tensor, count: int) -> Tensor:
    """`count` unsigned 32-bit words for each position.

    Args:
        seed: of the run, 0 <= seed < 2**64.
        stream: what the numbers are for; different names give independent numbers.
        positions: (N,) int64, non-negative.
        count: words per position.

    Returns:
        (N, count) int64 in [0, 2**32), on the device of `positions`.
    """
    if positions.is_cuda and why_not_triton(positions.device) is None:
        return counter_bits(seed, stream_id(stream), positions, count)
    return _bits(seed, stream_id(stream), positions, count)


def _bits(seed: int, stream: int, positions: Tensor, count: int) -> Tensor:
    """`counter_bits` in plain PyTorch."""
    block = torch.arange(-(-count // 4), device=positions.device)[None, :]
    position = positions[:, None]
    position, block = torch.broadcast_tensors(position, block)
    counter = (block, torch.full_like(block, stream), position & _MASK, position >> 32)
    words = philox(counter, (seed & _MASK, seed >> 32))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def uniform(seed: int, stream: str, positions: Tensor, count: int) -> Tensor:
    """(N, count) float64 in (0, 1): the centres of 2**32 equal intervals."""
    return (bits(seed, stream, positions, count).double() + 0.5) * 2.0**-32


def integers(seed: int, stream: str, positions: Tensor, low: int, high: int) -> Tensor:
    """(N,) int64, uniform in low..high-1 (bias below (high - low) / 2**32)."""
    word = bits(seed, stream, positions, 1)[:, 0]
    return low + ((word * (high - low)) >> 32)


def normal(seed: int, stream: str, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, *shape) float32 standard normal by Box-Muller, four numbers to a Philox block."""
    count = math.prod(shape)
    words = bits(seed, stream, positions, -(-count // 4) * 4).view(len(positions), -1, 4)
    unit = (words.float() + 0.5) * 2.0**-32
    # Rounding to float32 can reach exactly 1, whose logarithm is 0: harmless. It never reaches 0.
    radius = torch.sqrt(-2.0 * torch.log(unit[..., 0::2]))
    angle = (2.0 * math.pi) * unit[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(1)[:, :count].view(-1, *shape)
