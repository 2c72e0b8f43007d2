"""Philox4x32-10 (Salmon et al., SC 2011), which Triton has; here its counter and key are laid out."""

import triton
import triton.language as tl


# Sampling may have a stream for each timestep: one compilation serves them all, whatever their numbers.
@triton.jit(do_not_specialize=["stream"])
def philox_words(
    out_ptr, positions_ptr, total, blocks, count, stream: tl.uint32, SEED: tl.constexpr, BLOCK: tl.constexpr
):
    """Four words for each of `total` = N * blocks counters (block, stream, low and high half of the position)."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = index < total
    row, block = index // blocks, index % blocks
    position = tl.load(positions_ptr + row, mask=exists, other=0)
    streams = tl.full([BLOCK], stream, tl.uint32)
    low, high = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.full([], SEED, tl.uint64), block.to(tl.uint32), streams, low, high)
    first = 4 * block
    out_ptr += row * count + first
    tl.store(out_ptr, w0.to(tl.int64), mask=exists & (first < count))
    tl.store(out_ptr + 1, w1.to(tl.int64), mask=exists & (first + 1 < count))
    tl.store(out_ptr + 2, w2.to(tl.int64), mask=exists & (first + 2 < count))
    tl.store(out_ptr + 3, w3.to(tl.int64), mask=exists & (first + 3 < count))
