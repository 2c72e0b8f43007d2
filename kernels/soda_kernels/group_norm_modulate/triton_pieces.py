"""What the forward and the backward kernels share: addresses, sums over groups, the dropout mask.

A tile is indexed [position, slot] whatever the memory layout; a slot is a channel of one of the program's groups.
CPG: channels of a group. Statistics and arithmetic are float32.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def slots(
    first_group, first_channel, CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr
):
    """The slots' channels, groups and whether they exist: three [BLOCK_G * BLOCK_C].

    first_channel counts within a group; it is 0 unless a wide group is cut into columns.
    """
    slot = tl.arange(0, BLOCK_G * BLOCK_C)
    group = slot // BLOCK_C
    within = first_channel + slot % BLOCK_C
    exists = (group < GROUPS) & (within < CPG)
    if BLOCK_C == CPG:
        # The same numbers, in a form whose long runs of neighbours the compiler sees: wide loads.
        channel = first_group * CPG + slot
    else:
        channel = (first_group + group) * CPG + within
    return channel, first_group + group, exists


@triton.jit
def offsets(position, channel, C, HW, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr):
    """Of a tile within its sample, [position, slot]. WIDE: a sample holds 2**31 elements or more."""
    if WIDE:
        position, channel = position.to(tl.int64), channel.to(tl.int64)
    if CHANNELS_LAST:
        return position[:, None] * C + channel[None, :]
    return channel[None, :] * HW + position[:, None]


@triton.jit
def _load(pointer, mask, EVEN: tl.constexpr):
    """EVEN: the mask is true everywhere. 0 where it is not."""
    if EVEN:
        tile = tl.load(pointer)
    else:
        tile = tl.load(pointer, mask=mask, other=0.0)
    return tile


@triton.jit
def _store(pointer, value, mask, EVEN: tl.constexpr):
    """In the pointer's type."""
    if EVEN:
        tl.store(pointer, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_tile(
    x_ptr,
    skip_ptr,
    n,
    position,
    channel,
    C,
    C_X,
    HW,
    mask,
    CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Sample n's tile of x (N, C_X, H, W) followed by skip (N, C - C_X, H, W), as it is in memory; of x, if there is no
    skip."""
    if skip_ptr is None:
        tile = _load(x_ptr + n * C * HW + offsets(position, channel, C, HW, CHANNELS_LAST, WIDE), mask, EVEN)
    else:
        in_x, in_skip = (channel < C_X)[None, :], (channel >= C_X)[None, :]
        x_offset = offsets(position, channel, C_X, HW, CHANNELS_LAST, WIDE)
        skip_offset = offsets(position, channel - C_X, C - C_X, HW, CHANNELS_LAST, WIDE)
        first = _load(x_ptr + n * C_X * HW + x_offset, mask & in_x, False)
        second = _load(skip_ptr + n * (C - C_X) * HW + skip_offset, mask & in_skip, False)
        tile = tl.where(in_x, first, second)
    return tile


@triton.jit
def store_tile(
    x_ptr,
    skip_ptr,
    value,
    n,
    position,
    channel,
    C,
    C_X,
    HW,
    mask,
    CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The counterpart of `load_tile`."""
    if skip_ptr is None:
        _store(x_ptr + n * C * HW + offsets(position, channel, C, HW, CHANNELS_LAST, WIDE), value, mask, EVEN)
    else:
        x_offset = offsets(position, channel, C_X, HW, CHANNELS_LAST, WIDE)
        skip_offset = offsets(position, channel - C_X, C - C_X, HW, CHANNELS_LAST, WIDE)
        _store(x_ptr + n * C_X * HW + x_offset, value, mask & (channel < C_X)[None, :], False)
        _store(skip_ptr + n * (C - C_X) * HW + skip_offset, value, mask & (channel >= C_X)[None, :], False)


@triton.jit
def select(mask, value, EVEN: tl.constexpr):
    """value, 0 where the mask is false."""
    if EVEN:
        return value
    return tl.where(mask, value, 0.0)


@triton.jit
def channel_vector(pointer, row, stride, channel, exists):
    """A row of an (N, C) tensor at the slots' channels, float32."""
    return tl.load(pointer + row * stride + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def bias_vector(bias_ptr, channel, exists):
    """The bias at the slots' channels, float32; 0 if there is none. It is never added to a tile: x + bias - mean is
    x - (mean - bias), with the bracket a vector."""
    if bias_ptr is None:
        bias = tl.zeros(channel.shape, tl.float32)
    else:
        bias = tl.load(bias_ptr + channel, mask=exists, other=0.0).to(tl.float32)
    return bias


@triton.jit
def pivot_vector(
    x_ptr,
    skip_ptr,
    bias_ptr,
    n,
    group,
    C,
    C_X,
    HW,
    exists,
    CPG: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The first value of every slot's group, [slot] float32: what statistics are taken about.

    No value of a group of M is further than sqrt(M) deviations from its mean, so that the subtraction costs few digits;
    and in a constant group the differences are exactly 0.
    """
    channel = group * CPG
    first = load_tile(
        x_ptr, skip_ptr, n, tl.arange(0, 1), channel, C, C_X, HW, exists[None, :], CHANNELS_LAST, False, WIDE
    )
    return tl.sum(first.to(tl.float32), axis=0) + bias_vector(bias_ptr, channel, exists)


@triton.jit
def tile_group_sum(tile, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """[position, slot] -> [slot]: every slot gets its group's sum over the tile. First along what a thread holds of
    neighbours, so that few sums are left to exchange between threads."""
    if CHANNELS_LAST:
        rows = tl.sum(tl.reshape(tile, [tile.shape[0], BLOCK_G, BLOCK_C]), axis=2)
        return _spread(tl.sum(rows, axis=0), BLOCK_G, BLOCK_C)
    return group_sum(tl.sum(tile, axis=0), BLOCK_G, BLOCK_C)


@triton.jit
def group_sum(per_slot, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """[slot] -> [slot]: every slot gets the sum over its group."""
    return _spread(tl.sum(tl.reshape(per_slot, [BLOCK_G, BLOCK_C]), axis=1), BLOCK_G, BLOCK_C)


@triton.jit
def _spread(sums, BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr):
    """[group] -> [slot]."""
    return tl.reshape(tl.broadcast_to(sums[:, None], [BLOCK_G, BLOCK_C]), [BLOCK_G * BLOCK_C])


@triton.jit
def hash32(word):
    """Of uint32, see dropout.py."""
    word = word * 0x7FEB352D
    word = (word ^ (word >> 15)) * 0x846CA68B
    return (word ^ (word >> 16)) * 0x7FEB352D


@triton.jit
def dropout(value, seed_ptr, n, position, channel, HW, THRESHOLD: tl.constexpr, KEPT_SCALE: tl.constexpr):
    """A tile, or its gradient, without the elements that dropout.py's mask drops."""
    seed = tl.load(seed_ptr + n)
    key = hash32(seed.to(tl.uint32) + hash32((seed >> 32).to(tl.uint32)))
    element = channel[None, :] * HW + position[:, None]
    return tl.where(hash32(element.to(tl.uint32) + key) >= THRESHOLD, value * KEPT_SCALE, 0.0)


@triton.jit
def sigmoid(u, FAST: tl.constexpr):
    """1 / (1 + exp(-u)). FAST: the hardware's approximations of the exponential and the quotient, whose absolute error
    stays within a few roundings of float32; without it, what the interpreter can do."""
    if FAST:
        return libdevice.fast_dividef(1.0, 1.0 + libdevice.fast_expf(-u))
    return 1.0 / (1.0 + tl.exp(-u))
