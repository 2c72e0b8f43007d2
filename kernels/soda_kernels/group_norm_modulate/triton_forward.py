"""The forward kernels: tile in registers, and in two passes over memory. The shapes are explained in tiling.py."""

import triton
import triton.language as tl

from soda_kernels.group_norm_modulate.triton_pieces import (
    bias_vector,
    channel_vector,
    dropout,
    load_tile,
    pivot_vector,
    select,
    sigmoid,
    slots,
    store_tile,
    tile_group_sum,
)


@triton.jit
def forward_whole(
    x_ptr,
    skip_ptr,
    scale_ptr,
    shift_ptr,
    bias_ptr,
    seed_ptr,
    y_ptr,
    joined_ptr,
    mean_ptr,
    rstd_ptr,
    scale_stride,
    shift_stride,
    C,
    C_X,
    HW,
    G,
    EPS: tl.constexpr,
    SILU: tl.constexpr,
    DROPOUT: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEPT_SCALE: tl.constexpr,
    CPG: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    FAST: tl.constexpr,
):
    """One sample's GROUPS groups: x read once. Grid: N * G / GROUPS."""
    blocks = G // GROUPS
    n = (tl.program_id(0) // blocks).to(tl.int64)
    channel, group, exists = slots((tl.program_id(0) % blocks) * GROUPS, 0, CPG, GROUPS, BLOCK_G, BLOCK_C)
    position = tl.arange(0, BLOCK_P)
    mask = (position < HW)[:, None] & exists[None, :]

    x = load_tile(x_ptr, skip_ptr, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    if joined_ptr is not None:
        store_tile(joined_ptr, None, x, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    x = x.to(tl.float32)
    pivot = pivot_vector(x_ptr, skip_ptr, bias_ptr, n, group, C, C_X, HW, exists, CPG, CHANNELS_LAST, WIDE)
    bias = bias_vector(bias_ptr, channel, exists)
    x = select(mask, x - (pivot - bias)[None, :], EVEN)
    count = 1.0 * CPG * HW
    away = tile_group_sum(x, BLOCK_G, BLOCK_C, CHANNELS_LAST) / count
    mean = pivot + away
    x = select(mask, x - away[None, :], EVEN)
    variance = tile_group_sum(x * x, BLOCK_G, BLOCK_C, CHANNELS_LAST) / count
    rstd = 1.0 / tl.sqrt(variance + EPS)
    first = exists & (tl.arange(0, BLOCK_G * BLOCK_C) % BLOCK_C == 0)
    tl.store(mean_ptr + n * G + group, mean, mask=first)
    tl.store(rstd_ptr + n * G + group, rstd, mask=first)

    slope = rstd * channel_vector(scale_ptr, n, scale_stride, channel, exists)
    shift = channel_vector(shift_ptr, n, shift_stride, channel, exists)
    u = x * slope[None, :] + shift[None, :]
    if SILU:
        u *= sigmoid(u, FAST)
    if DROPOUT:
        u = dropout(u, seed_ptr, n, position, channel, HW, THRESHOLD, KEPT_SCALE)
    store_tile(y_ptr, None, u, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)


@triton.jit
def forward_looped(
    x_ptr,
    skip_ptr,
    scale_ptr,
    shift_ptr,
    bias_ptr,
    seed_ptr,
    y_ptr,
    joined_ptr,
    mean_ptr,
    rstd_ptr,
    scale_stride,
    shift_stride,
    C,
    C_X,
    HW,
    G,
    EPS: tl.constexpr,
    SILU: tl.constexpr,
    DROPOUT: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEPT_SCALE: tl.constexpr,
    CPG: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr,
    WIDE: tl.constexpr,
    FAST: tl.constexpr,
):
    """One sample's GROUPS groups, tile by tile, x read twice. Grid: N * G / GROUPS.

    Sums and squares are taken about the first tile's mean. If the first tile is one of k, the variance is at
    least 1/k of the pivot's squared distance from the mean: the subtraction at the end costs at most a factor k.
    """
    blocks = G // GROUPS
    n = (tl.program_id(0) // blocks).to(tl.int64)
    first_group = (tl.program_id(0) % blocks) * GROUPS

    channel, group, exists = slots(first_group, 0, CPG, GROUPS, BLOCK_G, BLOCK_C)
    position = tl.arange(0, BLOCK_P)
    mask = (position < HW)[:, None] & exists[None, :]
    start = load_tile(x_ptr, skip_ptr, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    pivot = pivot_vector(x_ptr, skip_ptr, bias_ptr, n, group, C, C_X, HW, exists, CPG, CHANNELS_LAST, WIDE)
    bias = bias_vector(bias_ptr, channel, exists)
    centred = select(mask, start.to(tl.float32) - (pivot - bias)[None, :], EVEN)
    in_tile = 1.0 * min(BLOCK_C, CPG) * min(BLOCK_P, HW)
    # Relative to the pivot, to which it is never added: in a constant group it is 0, and stays 0.
    start_mean = tile_group_sum(centred, BLOCK_G, BLOCK_C, CHANNELS_LAST) / in_tile

    sums = tl.zeros([BLOCK_P, BLOCK_G * BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_P, BLOCK_G * BLOCK_C], tl.float32)
    for first_channel in range(0, CPG, BLOCK_C):
        channel, group, exists = slots(first_group, first_channel, CPG, GROUPS, BLOCK_G, BLOCK_C)
        bias = bias_vector(bias_ptr, channel, exists)
        for tile in range(TILES):
            position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
            mask = (position < HW)[:, None] & exists[None, :]
            x = load_tile(x_ptr, skip_ptr, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            centred = select(mask, x.to(tl.float32) - (pivot - bias)[None, :] - start_mean[None, :], EVEN)
            sums += centred
            squares += centred * centred
    count = 1.0 * CPG * HW
    away = tile_group_sum(sums, BLOCK_G, BLOCK_C, CHANNELS_LAST) / count
    variance = tile_group_sum(squares, BLOCK_G, BLOCK_C, CHANNELS_LAST) / count - away * away
    away += start_mean
    # Not tl.maximum(variance, 0), which may turn a NaN into 0.
    rstd = 1.0 / tl.sqrt(tl.where(variance < 0, 0.0, variance) + EPS)

    for first_channel in range(0, CPG, BLOCK_C):
        channel, group, exists = slots(first_group, first_channel, CPG, GROUPS, BLOCK_G, BLOCK_C)
        bias = bias_vector(bias_ptr, channel, exists)
        scale = channel_vector(scale_ptr, n, scale_stride, channel, exists)
        shift = channel_vector(shift_ptr, n, shift_stride, channel, exists)
        for tile in range(TILES):
            position = (TILES - 1 - tile) * BLOCK_P + tl.arange(0, BLOCK_P)
            mask = (position < HW)[:, None] & exists[None, :]
            x = load_tile(x_ptr, skip_ptr, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            if joined_ptr is not None:
                store_tile(joined_ptr, None, x, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            u = (x.to(tl.float32) - (pivot - bias)[None, :] - away[None, :]) * (rstd * scale)[None, :] + shift[None, :]
            if SILU:
                u *= sigmoid(u, FAST)
            if DROPOUT:
                u = dropout(u, seed_ptr, n, position, channel, HW, THRESHOLD, KEPT_SCALE)
            store_tile(y_ptr, None, u, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)

    first = (tl.arange(0, BLOCK_G * BLOCK_C) % BLOCK_C == 0) & (group < first_group + GROUPS)
    tl.store(mean_ptr + n * G + group, pivot + away, mask=first)
    tl.store(rstd_ptr + n * G + group, rstd, mask=first)
