"""One program does all steps of one view. The view stays in registers, a pixel in 32 bits: red, green << 8, blue << 16.

Arithmetic is Pillow's: integers, float32 or float64, each operation rounded by itself. So the kernel must be compiled
without fusing multiplications and additions, and divides float32 by `div_rn`, because Triton's "/" is approximate.
PIXELS: SIZE * SIZE, rounded up to a power of two; what the pixels beyond the view hold is never looked at.
"""

import triton
import triton.language as tl

from soda_kernels.view_operations.hue import shift_hue
from soda_kernels.view_operations.pixels import grey, level, pack
from soda_kernels.view_operations.steps import FIELDS, Step
from soda_kernels.view_operations.tables import auto_contrast, equalize

_FIELDS = tl.constexpr(FIELDS)
WARP = tl.constexpr(int(Step.WARP))
BRIGHTNESS = tl.constexpr(int(Step.BRIGHTNESS))
COLOR = tl.constexpr(int(Step.COLOR))
CONTRAST = tl.constexpr(int(Step.CONTRAST))
SHARPNESS = tl.constexpr(int(Step.SHARPNESS))
POSTERIZE = tl.constexpr(int(Step.POSTERIZE))
SOLARIZE = tl.constexpr(int(Step.SOLARIZE))
AUTO_CONTRAST = tl.constexpr(int(Step.AUTO_CONTRAST))
EQUALIZE = tl.constexpr(int(Step.EQUALIZE))
HUE = tl.constexpr(int(Step.HUE))
GRAYSCALE = tl.constexpr(int(Step.GRAYSCALE))


# One compilation, however many steps the views have.
@triton.jit(do_not_specialize=["num_steps"])
def change_view(views_ptr, steps_ptr, num_steps, SIZE: tl.constexpr, PIXELS: tl.constexpr):
    """Do the steps (N, num_steps, FIELDS) of each view (N, SIZE, SIZE, 3) in place."""
    view = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, PIXELS)
    exists = pixel < SIZE * SIZE
    place = views_ptr + view * (3 * SIZE * SIZE) + 3 * pixel
    red = tl.load(place, mask=exists, other=0).to(tl.int32)
    green = tl.load(place + 1, mask=exists, other=0).to(tl.int32)
    blue = tl.load(place + 2, mask=exists, other=0).to(tl.int32)
    image = pack(red, green, blue)
    # What the operations share is computed where it is used: kept for all of them it would not fit into registers.
    for step in tl.range(num_steps, disable_licm=True):
        image = _step(image, pixel, steps_ptr + (view * num_steps + step) * _FIELDS, SIZE)
    tl.store(place, level(image, 0).to(tl.uint8), mask=exists)
    tl.store(place + 1, level(image, 1).to(tl.uint8), mask=exists)
    tl.store(place + 2, level(image, 2).to(tl.uint8), mask=exists)


@triton.jit
def _step(image, pixel, step_ptr, SIZE: tl.constexpr):
    """The image after the step; as it is for a step that is none of these."""
    exists = pixel < SIZE * SIZE
    step, first = tl.load(step_ptr), tl.load(step_ptr + 1)
    if step == WARP:
        image = _warp(image, pixel, step_ptr + 1, SIZE)
    elif step == BRIGHTNESS:
        image = _blend(tl.zeros_like(image), image, first)
    elif step == COLOR:
        image = _blend(_all_channels(grey(image)), image, first)
    elif step == CONTRAST:
        total = tl.sum(tl.where(exists, grey(image), 0))
        mean = (2 * total + SIZE * SIZE) // (2 * SIZE * SIZE)
        image = _blend(tl.zeros_like(image) + _all_channels(mean), image, first)
    elif step == SHARPNESS:
        image = _blend(_smooth(image, pixel, SIZE), image, first)
    elif step == POSTERIZE:
        image = image & _all_channels(first)
    elif step == SOLARIZE:
        image = pack(
            _solarize(level(image, 0), first), _solarize(level(image, 1), first), _solarize(level(image, 2), first)
        )
    elif step == AUTO_CONTRAST:
        image = pack(
            auto_contrast(level(image, 0), exists),
            auto_contrast(level(image, 1), exists),
            auto_contrast(level(image, 2), exists),
        )
    elif step == EQUALIZE:
        image = pack(
            equalize(level(image, 0), exists, SIZE * SIZE),
            equalize(level(image, 1), exists, SIZE * SIZE),
            equalize(level(image, 2), exists, SIZE * SIZE),
        )
    elif step == HUE:
        image = shift_hue(image, first)
    elif step == GRAYSCALE:
        image = _all_channels(grey(image))
    return image


@triton.jit
def _all_channels(levels):
    return levels * 0x010101


@triton.jit
def _warp(image, pixel, numbers_ptr, SIZE: tl.constexpr):
    """Nearest neighbour in 16.16 fixed point, black outside."""
    a, b, c = tl.load(numbers_ptr), tl.load(numbers_ptr + 1), tl.load(numbers_ptr + 2)
    d, e, f = tl.load(numbers_ptr + 3), tl.load(numbers_ptr + 4), tl.load(numbers_ptr + 5)
    x, y = pixel % SIZE, pixel // SIZE
    from_x, from_y = (a * x + (b * y + c)) >> 16, (d * x + (e * y + f)) >> 16
    inside = (from_x >= 0) & (from_x < SIZE) & (from_y >= 0) & (from_y < SIZE)
    return tl.where(inside, tl.gather(image, tl.where(inside, from_y * SIZE + from_x, 0), 0), 0)


@triton.jit
def _blend(degenerate, image, factor_bits):
    """degenerate + factor * (image - degenerate), cut towards zero."""
    factor = factor_bits.to(tl.float32, bitcast=True)
    return pack(
        _blend_levels(level(degenerate, 0), level(image, 0), factor),
        _blend_levels(level(degenerate, 1), level(image, 1), factor),
        _blend_levels(level(degenerate, 2), level(image, 2), factor),
    )


@triton.jit
def _blend_levels(degenerate, levels, factor):
    start = degenerate.to(tl.float32)
    blended = (levels.to(tl.float32) - start) * factor + start
    return tl.minimum(tl.maximum(blended, 0.0), 255.0).to(tl.int32)


@triton.jit
def _smooth(image, pixel, SIZE: tl.constexpr):
    """Pillow's SMOOTH: 3x3 mean with the centre counted five times; the border stays."""
    x, y = pixel % SIZE, pixel // SIZE
    in_row = (x > 0) & (x < SIZE - 1) & (y < SIZE)
    inner = in_row & (y > 0) & (y < SIZE - 1)
    # Sums of three levels take ten bits: red, green << 10, blue << 20.
    row = level(image, 0) | (level(image, 1) << 10) | (level(image, 2) << 20)
    row += _neighbour(row, pixel - 1, in_row) + _neighbour(row, pixel + 1, in_row)
    above, below = _neighbour(row, pixel - SIZE, inner), _neighbour(row, pixel + SIZE, inner)
    smooth = pack(
        _mean(level(image, 0), above & 0x3FF, row & 0x3FF, below & 0x3FF),
        _mean(level(image, 1), (above >> 10) & 0x3FF, (row >> 10) & 0x3FF, (below >> 10) & 0x3FF),
        _mean(level(image, 2), above >> 20, row >> 20, below >> 20),
    )
    return tl.where(inner, smooth, image)


@triton.jit
def _neighbour(values, place, exists):
    return tl.gather(values, tl.where(exists, place, 0), 0)


@triton.jit
def _mean(centre, above, row, below):
    """Rounded; of sums of three levels, the middle one of the middle row counted four times more."""
    return (2 * (above + row + below + 4 * centre) + 13) // 26


@triton.jit
def _solarize(levels, first):
    return tl.where(levels < first, levels, 255 - levels)
