"""The colour circle turned, by way of Pillow's 8-bit HSV. Pillow computes in float32, with double constants."""

import triton
import triton.language as tl

from soda_kernels.view_operations.pixels import level, pack


@triton.jit
def shift_hue(image, turn):
    """turn: in 255ths of the circle."""
    hue, saturation, value = _to_hsv(level(image, 0), level(image, 1), level(image, 2))
    return _to_rgb((hue + turn) & 0xFF, saturation, value)


@triton.jit
def _to_hsv(red, green, blue):
    value = tl.maximum(tl.maximum(red, green), blue)
    span = value - tl.minimum(tl.minimum(red, green), blue)
    chroma = tl.maximum(span, 1).to(tl.float32)
    # The two others, after the strongest on the circle and before it.
    after = tl.where(red == value, green, tl.where(green == value, blue, red))
    before = tl.where(red == value, blue, tl.where(green == value, red, green))
    start = tl.where(red == value, 0.0, tl.where(green == value, 2.0, 4.0)).to(tl.float64)
    from_after, from_before = _share(value - after, chroma), _share(value - before, chroma)
    # Of red Pillow takes the difference in float32; in double, where it is exact, it rounds to the same.
    hue = (start + from_before.to(tl.float64) - from_after.to(tl.float64)).to(tl.float32)
    turns = hue.to(tl.float64) / 6.0 + 1.0  # between 0 and 2
    hue = (turns - tl.floor(turns)).to(tl.float32)
    saturation = tl.div_rn(chroma, tl.maximum(value, 1).to(tl.float32))
    return tl.where(span > 0, _to_level(hue), 0), tl.where(span > 0, _to_level(saturation), 0), value


@triton.jit
def _share(levels, chroma):
    return tl.div_rn(levels.to(tl.float32), chroma)


@triton.jit
def _to_level(share):
    return tl.minimum(tl.maximum((share.to(tl.float64) * 255.0).to(tl.int32), 0), 255)


@triton.jit
def _to_rgb(hue, saturation, value):
    sixths = hue.to(tl.float64) * 6.0 / 255.0
    floor = tl.floor(sixths)
    within = (sixths - floor).to(tl.float32)
    strong = (saturation.to(tl.float64) / 255.0).to(tl.float32)
    sector = floor.to(tl.int32) % 6
    # Odd sectors fall, even ones rise; Pillow multiplies in float32 for the former, in double for the latter.
    rising = strong.to(tl.float64) * (1.0 - within.to(tl.float64))
    middle = _darker(value, tl.where(sector % 2 == 1, (strong * within).to(tl.float64), rising))
    low = _darker(value, strong.to(tl.float64))
    red = _choose(sector, value, middle, low, low, middle, value)
    green = _choose(sector, middle, value, value, middle, low, low)
    blue = _choose(sector, low, low, middle, value, value, middle)
    return pack(red, green, blue)


@triton.jit
def _darker(value, share):
    """value * (1 - share), halves rounded away from zero as C does."""
    darker = tl.floor(value.to(tl.float64) * (1.0 - share) + 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(darker, 0), 255)


@triton.jit
def _choose(sector, first, second, third, fourth, fifth, sixth):
    """The sector's level, of those for the sectors 0..5."""
    lower = tl.where(sector == 0, first, tl.where(sector == 1, second, third))
    upper = tl.where(sector == 3, fourth, tl.where(sector == 4, fifth, sixth))
    return tl.where(sector < 3, lower, upper)
