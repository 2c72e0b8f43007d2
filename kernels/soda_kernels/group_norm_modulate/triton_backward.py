"""The backward kernels: tiles in registers, and in two passes over memory. The shapes are explained in tiling.py.

With xhat = (x - mean) rstd, u = scale xhat + shift and du = dL/du:

    dshift[n,c] = sum_p du            dscale[n,c] = sum_p du xhat
    dx = rstd (scale du - m1 - xhat m2)
    m1[n,g] = sum_{c in g} scale dshift / M      m2[n,g] = sum_{c in g} scale dscale / M      M = elements of a group

A program holds its channels at all positions: every sum is its own, in a fixed order, without atomics.
"""

import triton
import triton.language as tl

from soda_kernels.group_norm_modulate.triton_pieces import (
    bias_vector,
    channel_vector,
    dropout,
    group_sum,
    load_tile,
    select,
    sigmoid,
    slots,
    store_tile,
)


@triton.jit
def gradient_of_u(
    dy,
    u,
    seed_ptr,
    n,
    position,
    channel,
    HW,
    SILU: tl.constexpr,
    DROPOUT: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEPT_SCALE: tl.constexpr,
    FAST: tl.constexpr,
):
    """du of a tile, float32: dy back through dropout and the activation."""
    du = dy.to(tl.float32)
    if DROPOUT:
        du = dropout(du, seed_ptr, n, position, channel, HW, THRESHOLD, KEPT_SCALE)
    if SILU:
        s = sigmoid(u, FAST)
        du *= s * (1.0 + u * (1.0 - s))
    return du


@triton.jit
def backward_whole(
    dy_ptr,
    djoined_ptr,
    x_ptr,
    scale_ptr,
    shift_ptr,
    bias_ptr,
    seed_ptr,
    mean_ptr,
    rstd_ptr,
    dx_ptr,
    dskip_ptr,
    dscale_ptr,
    dshift_ptr,
    dbias_ptr,
    scale_stride,
    shift_stride,
    C,
    C_X,
    HW,
    G,
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
    """One sample's GROUPS groups: x and dy read once. Grid: N * G / GROUPS."""
    blocks = G // GROUPS
    n = (tl.program_id(0) // blocks).to(tl.int64)
    channel, group, exists = slots((tl.program_id(0) % blocks) * GROUPS, 0, CPG, GROUPS, BLOCK_G, BLOCK_C)
    position = tl.arange(0, BLOCK_P)
    mask = (position < HW)[:, None] & exists[None, :]

    x = load_tile(x_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    dy = load_tile(dy_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    mean = channel_vector(mean_ptr, n, G, group, exists) - bias_vector(bias_ptr, channel, exists)
    rstd = channel_vector(rstd_ptr, n, G, group, exists)
    scale = channel_vector(scale_ptr, n, scale_stride, channel, exists)
    shift = channel_vector(shift_ptr, n, shift_stride, channel, exists)

    xhat = (x.to(tl.float32) - mean[None, :]) * rstd[None, :]
    u = xhat * scale[None, :] + shift[None, :]
    du = gradient_of_u(dy, u, seed_ptr, n, position, channel, HW, SILU, DROPOUT, THRESHOLD, KEPT_SCALE, FAST)
    du = select(mask, du, EVEN)
    dshift = tl.sum(du, axis=0)
    dscale = tl.sum(du * xhat, axis=0)

    count = 1.0 * CPG * HW
    m1 = group_sum(scale * dshift, BLOCK_G, BLOCK_C) / count
    m2 = group_sum(scale * dscale, BLOCK_G, BLOCK_C) / count
    dx = (du * scale[None, :] - m1[None, :] - xhat * m2[None, :]) * rstd[None, :]
    if dbias_ptr is not None:
        tl.store(dbias_ptr + n * C + channel, tl.sum(select(mask, dx, EVEN), axis=0), mask=exists)
    if djoined_ptr is not None:
        dx += load_tile(djoined_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    store_tile(dx_ptr, dskip_ptr, dx, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
    tl.store(dscale_ptr + n * C + channel, dscale, mask=exists)
    tl.store(dshift_ptr + n * C + channel, dshift, mask=exists)


@triton.jit
def backward_looped(
    dy_ptr,
    djoined_ptr,
    x_ptr,
    scale_ptr,
    shift_ptr,
    bias_ptr,
    seed_ptr,
    mean_ptr,
    rstd_ptr,
    dx_ptr,
    dskip_ptr,
    dscale_ptr,
    dshift_ptr,
    dbias_ptr,
    scale_stride,
    shift_stride,
    C,
    C_X,
    HW,
    G,
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
    """One sample's GROUPS groups, tile by tile, x and dy read twice. Grid: N * G / GROUPS."""
    blocks = G // GROUPS
    n = (tl.program_id(0) // blocks).to(tl.int64)
    first_group = (tl.program_id(0) % blocks) * GROUPS
    channel, group, exists = slots(first_group, 0, CPG, GROUPS, BLOCK_G, BLOCK_C)
    known = group < first_group + GROUPS
    mean = channel_vector(mean_ptr, n, G, group, known)
    rstd = channel_vector(rstd_ptr, n, G, group, known)

    m1 = tl.zeros([BLOCK_G * BLOCK_C], tl.float32)
    m2 = tl.zeros([BLOCK_G * BLOCK_C], tl.float32)
    for first_channel in range(0, CPG, BLOCK_C):
        channel, group, exists = slots(first_group, first_channel, CPG, GROUPS, BLOCK_G, BLOCK_C)
        bias = bias_vector(bias_ptr, channel, exists)
        scale = channel_vector(scale_ptr, n, scale_stride, channel, exists)
        shift = channel_vector(shift_ptr, n, shift_stride, channel, exists)
        du_sums = tl.zeros([BLOCK_P, BLOCK_G * BLOCK_C], tl.float32)
        du_xhat_sums = tl.zeros([BLOCK_P, BLOCK_G * BLOCK_C], tl.float32)
        for tile in range(TILES):
            position = tile * BLOCK_P + tl.arange(0, BLOCK_P)
            mask = (position < HW)[:, None] & exists[None, :]
            x = load_tile(x_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            dy = load_tile(dy_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            xhat = (x.to(tl.float32) - (mean - bias)[None, :]) * rstd[None, :]
            u = xhat * scale[None, :] + shift[None, :]
            du = gradient_of_u(dy, u, seed_ptr, n, position, channel, HW, SILU, DROPOUT, THRESHOLD, KEPT_SCALE, FAST)
            du = select(mask, du, EVEN)
            du_sums += du
            du_xhat_sums += du * xhat
        dshift = tl.sum(du_sums, axis=0)
        dscale = tl.sum(du_xhat_sums, axis=0)
        tl.store(dscale_ptr + n * C + channel, dscale, mask=exists)
        tl.store(dshift_ptr + n * C + channel, dshift, mask=exists)
        m1 += group_sum(scale * dshift, BLOCK_G, BLOCK_C)
        m2 += group_sum(scale * dscale, BLOCK_G, BLOCK_C)
    count = 1.0 * CPG * HW
    m1 /= count
    m2 /= count

    for first_channel in range(0, CPG, BLOCK_C):
        channel, group, exists = slots(first_group, first_channel, CPG, GROUPS, BLOCK_G, BLOCK_C)
        bias = bias_vector(bias_ptr, channel, exists)
        scale = channel_vector(scale_ptr, n, scale_stride, channel, exists)
        shift = channel_vector(shift_ptr, n, shift_stride, channel, exists)
        dx_sums = tl.zeros([BLOCK_P, BLOCK_G * BLOCK_C], tl.float32)
        for tile in range(TILES):
            position = (TILES - 1 - tile) * BLOCK_P + tl.arange(0, BLOCK_P)
            mask = (position < HW)[:, None] & exists[None, :]
            x = load_tile(x_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            dy = load_tile(dy_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            xhat = (x.to(tl.float32) - (mean - bias)[None, :]) * rstd[None, :]
            u = xhat * scale[None, :] + shift[None, :]
            du = gradient_of_u(dy, u, seed_ptr, n, position, channel, HW, SILU, DROPOUT, THRESHOLD, KEPT_SCALE, FAST)
            dx = (du * scale[None, :] - m1[None, :] - xhat * m2[None, :]) * rstd[None, :]
            if dbias_ptr is not None:
                dx_sums += select(mask, dx, EVEN)
            if djoined_ptr is not None:
                dx += load_tile(djoined_ptr, None, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
            store_tile(dx_ptr, dskip_ptr, dx, n, position, channel, C, C_X, HW, mask, CHANNELS_LAST, EVEN, WIDE)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + n * C + channel, tl.sum(dx_sums, axis=0), mask=exists)
