"""Counter-based normal numbers."""

from functools import partial

import torch
from torch import Tensor

from soda_kernels.cpu.library import library
from soda_kernels.memory import check_memory

_CACHED_BLOCKS = 16384
"""Counters worked on at a time: 6 arrays of 64 KiB, and 256 KiB of what is made of them. With half as many, Python's
part makes it a quarter slower."""


def counter_normal(seed: int, stream: int, positions: Tensor, count: int) -> Tensor | None:
    """`count` standard normal numbers for each position, on a CPU: Box and Muller's transform of `counter_bits`.

    Of each four words the first two make a pair, and the last two: radius sqrt(-2 log u), angle 2 pi u, with
    u = (word + 0.5) / 2**32 in float32.

    Args:
        seed: 0 <= seed < 2**64.
        stream: 0 <= stream < 2**32.
        positions: (N,) int64, non-negative, on the CPU.
        count: numbers per position.

    Returns:
        (N, count) float32; None where there is no C compiler (see `library`).
    """
    functions = library()
    if functions is None:
        return None
    positions = positions.contiguous()
    check_memory(torch.device("cpu"), (positions, torch.int64))
    blocks = -(-count // 4)
    # Named, whatever a program's default is: C writes into them.
    empty = partial(torch.empty, dtype=torch.float32, device="cpu")
    normals = empty(len(positions), blocks, 4)
    rows = max(1, _CACHED_BLOCKS // max(blocks, 1))
    for some, made in zip(positions.split(rows), normals.split(rows), strict=True):
        units, angles = empty(2, 2, len(some), blocks)
        functions.draw_polar(
            *(tensor.data_ptr() for tensor in (units, angles, some)),
            *(len(some), blocks, seed & 0xFFFFFFFF, seed >> 32, stream),
        )
        radii, cosines, sines = units.log_().mul_(-2.0).sqrt_(), angles.cos(), angles.sin_()
        functions.join_pairs(*(tensor.data_ptr() for tensor in (made, radii, cosines, sines)), len(some) * blocks)
    return normals.flatten(1)[:, :count]
