"""Random numbers that are a function of what they are for, not of who draws them or when.

Every number is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) at

    key     = (seed & 0xffffffff, seed >> 32)
    counter = (element // 4, crc32(stream), position & 0xffffffff, position >> 32)

so a sample at a position of the run gets the same numbers on any process, in any batch, before and after a resume.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_kernels import counter_bits, counter_normal, why_not_triton

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_CACHED_BLOCKS = 16384  # counters worked on at a time: 6 arrays of 128 KiB


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
    """`counter_bits` without Triton."""
    if _has_numbers_here(positions):
        return torch.from_numpy(_bits_on_cpu(seed, stream, positions.numpy(), count))
    block = torch.arange(-(-count // 4), device=positions.device)[None, :]
    position = positions[:, None]
    position, block = torch.broadcast_tensors(position, block)
    counter = (block, torch.full_like(block, stream), position & _MASK, position >> 32)
    words = philox(counter, (seed & _MASK, seed >> 32))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def _bits_on_cpu(seed: int, stream: int, positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The same in NumPy, a few rows at a time and in place, so that all stays in the processor's cache: the plain way
    is bound by memory, and takes five times as long."""
    blocks = -(-count // 4)
    words = np.empty((len(positions), blocks, 4), np.int64)
    rows = _cached_rows(blocks)
    for start in range(0, len(positions), rows):
        some = slice(start, start + rows)
        for number, word in enumerate(_words_on_cpu(seed, stream, positions[some], blocks)):
            words[some, :, number] = word
    return words.reshape(len(positions), 4 * blocks)[:, :count]


def _has_numbers_here(positions: Tensor) -> bool:
    """Whether NumPy can read them: they lie on the CPU, and are not a fake tensor's."""
    return positions.device.type == "cpu" and type(positions) is Tensor


def _cached_rows(blocks: int) -> int:
    """How many positions of so many blocks are worked on at once."""
    return max(1, _CACHED_BLOCKS // max(blocks, 1))


def _words_on_cpu(seed: int, stream: int, positions: NDArray[np.int64], blocks: int) -> NDArray[np.uint64]:
    """(4, N, blocks): the four words of each block."""
    some = positions.astype(np.uint64)[:, None]
    counter = np.empty((4, len(some), blocks), np.uint64)
    counter[0], counter[1] = np.arange(blocks, dtype=np.uint64), stream
    counter[2], counter[3] = some & np.uint64(_MASK), some >> np.uint64(32)
    _philox_in_place(counter, (seed & _MASK, seed >> 32))
    return counter


def _philox_in_place(counter: NDArray[np.uint64], key: tuple[int, int]) -> None:
    """`philox` on (4, ...) words, which it writes over."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    product0, product1 = np.empty_like(c0), np.empty_like(c0)
    mask, half, multipliers = np.uint64(_MASK), np.uint64(32), [np.uint64(m) for m in _MULTIPLIERS]
    for _ in range(_ROUNDS):
        np.multiply(c0, multipliers[0], out=product0)
        np.multiply(c2, multipliers[1], out=product1)
        _mix(product1, c1, np.uint64(k0), half, out=c0)
        _mix(product0, c3, np.uint64(k1), half, out=c2)
        np.bitwise_and(product1, mask, out=c1)
        np.bitwise_and(product0, mask, out=c3)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK


def _mix(product: NDArray[Any], word: NDArray[Any], key: np.uint64, half: np.uint64, out: NDArray[Any]) -> None:
    """out = high half of the product ^ word ^ key."""
    np.right_shift(product, half, out=out)
    np.bitwise_xor(out, word, out=out)
    np.bitwise_xor(out, key, out=out)


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
    if _has_numbers_here(positions):
        made = counter_normal(seed, stream_id(stream), positions, count)
        return (_normal_on_cpu(seed, stream_id(stream), positions, count) if made is None else made).view(-1, *shape)
    words = bits(seed, stream, positions, -(-count // 4) * 4).view(len(positions), -1, 4)
    unit = (words.float() + 0.5) * 2.0**-32
    # Rounding to float32 can reach exactly 1, whose logarithm is 0: harmless. It never reaches 0.
    radius = torch.sqrt(-2.0 * torch.log(unit[..., 0::2]))
    angle = (2.0 * math.pi) * unit[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(1)[:, :count].view(-1, *shape)


def _normal_on_cpu(seed: int, stream: int, positions: Tensor, count: int) -> Tensor:
    """`counter_normal` without a C compiler: the same numbers, a few rows at a time, in place, word by word."""
    blocks = -(-count // 4)
    out = torch.empty(len(positions), blocks, 2, 2, dtype=torch.float32, device="cpu")
    rows = _cached_rows(blocks)
    for some, made in zip(positions.split(rows), out.split(rows), strict=True):
        words = _words_on_cpu(seed, stream, some.numpy(), blocks).view(np.int64)
        unit = torch.from_numpy(words).to(torch.float32).add_(0.5).mul_(2.0**-32)
        radius = unit[0::2].log().mul_(-2.0).sqrt_()
        angle = unit[1::2].mul(2.0 * math.pi)
        pairs = made.permute(2, 3, 0, 1)
        pairs[:, 0], pairs[:, 1] = torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)
    return out.flatten(1)[:, :count]
