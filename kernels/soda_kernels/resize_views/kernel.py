"""Pillow's two passes for each pixel: sums along rows, each rounded to a level, then their sum along the column.

A sum over the rows that a pixel of the result needs is made again for its neighbours above and below: of a few pixels
each, from the cache, that costs less than memory for what lies between the passes.
"""

import triton
import triton.language as tl


@triton.jit
def resize_boxes(
    views_ptr, images_ptr, boxes_ptr, first_ptr, weights_ptr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    SIZE: tl.constexpr, TAPS: tl.constexpr, PRECISION_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK pixels of one view (N, SIZE, SIZE, 3). The arguments are those of `resize_views`."""
    view = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < SIZE * SIZE
    row, column = pixel // SIZE, pixel % SIZE
    box = boxes_ptr + 5 * view
    top, left = tl.load(box).to(tl.int32), tl.load(box + 1).to(tl.int32)
    height, width = tl.load(box + 2).to(tl.int32), tl.load(box + 3).to(tl.int32)
    column = tl.where(tl.load(box + 4) != 0, SIZE - 1 - column, column)
    # Places in the tables of weights: a row of them for each length and each pixel of the result.
    down, along = height * SIZE + row, width * SIZE + column
    top += tl.load(first_ptr + down, mask=exists, other=0).to(tl.int32)
    left += tl.load(first_ptr + along, mask=exists, other=0).to(tl.int32)
    half: tl.constexpr = 1 << (PRECISION_BITS - 1)
    red = tl.full([BLOCK], half, tl.int32)
    green, blue = red, red
    for tap_down in range(TAPS):
        weight = tl.load(weights_ptr + down * TAPS + tap_down, mask=exists, other=0)
        # A pixel beyond the last has weight 0, but must exist.
        line = images_ptr + (view * HEIGHT + tl.minimum(top + tap_down, HEIGHT - 1)) * (3 * WIDTH)
        row_red = tl.full([BLOCK], half, tl.int32)
        row_green, row_blue = row_red, row_red
        for tap_along in range(TAPS):
            share = tl.load(weights_ptr + along * TAPS + tap_along, mask=exists, other=0)
            place = line + 3 * tl.minimum(left + tap_along, WIDTH - 1)
            row_red += share * tl.load(place, mask=exists, other=0).to(tl.int32)
            row_green += share * tl.load(place + 1, mask=exists, other=0).to(tl.int32)
            row_blue += share * tl.load(place + 2, mask=exists, other=0).to(tl.int32)
        red += weight * _to_level(row_red, PRECISION_BITS)
        green += weight * _to_level(row_green, PRECISION_BITS)
        blue += weight * _to_level(row_blue, PRECISION_BITS)
    place = views_ptr + view * (3 * SIZE * SIZE) + 3 * pixel
    tl.store(place, _to_level(red, PRECISION_BITS).to(tl.uint8), mask=exists)
    tl.store(place + 1, _to_level(green, PRECISION_BITS).to(tl.uint8), mask=exists)
    tl.store(place + 2, _to_level(blue, PRECISION_BITS).to(tl.uint8), mask=exists)


@triton.jit
def _to_level(total, PRECISION_BITS: tl.constexpr):
    return tl.minimum(tl.maximum(total >> PRECISION_BITS, 0), 255)
