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
    from_red = tl.div_rn((value - red).to(tl.float32), chroma)
    from_green = tl.div_rn((value - green).to(tl.float32), chroma)
    from_blue = tl.div_rn((value - blue).to(tl.float32), chroma)
    green_hue = (2.0 + from_red.to(tl.float64) - from_blue).to(tl.float32)
    blue_hue = (4.0 + from_green.to(tl.float64) - from_red).to(tl.float32)
    hue = tl.where(red == value, from_blue - from_green, tl.where(green == value, green_hue, blue_hue))
    turns = hue.to(tl.float64) / 6.0 + 1.0  # between 0 and 2
    hue = (turns - tl.floor(turns)).to(tl.float32)
    saturation = tl.div_rn(chroma, tl.maximum(value, 1).to(tl.float32))
    return tl.where(span > 0, _to_level(hue), 0), tl.where(span > 0, _to_level(saturation), 0), value


@triton.jit
def _to_level(share):
    return tl.minimum(tl.maximum((share.to(tl.float64) * 255.0).to(tl.int32), 0), 255)


@triton.jit
def _to_rgb(hue, saturation, value):
    sixths = hue.to(tl.float64) * 6.0 / 255.0
    floor = tl.floor(sixths)
    within = (sixths - floor).to(tl.float32)
    strong = (saturation.to(tl.float64) / 255.0).to(tl.float32)
    # Pillow multiplies the second in float32, the third in double.
    low = _darker(value, strong.to(tl.float64))
    falling = _darker(value, (strong * within).to(tl.float64))
    rising = _darker(value, strong.to(tl.float64) * (1.0 - within.to(tl.float64)))
    sector = floor.to(tl.int32) % 6
    red = _choose(sector, value, falling, low, low, rising, value)
    green = _choose(sector, rising, value, value, falling, low, low)
    blue = _choose(sector, low, low, rising, value, value, falling)
    return pack(red, green, blue)


@triton.jit
def _darker(value, share):
    """value * (1 - share), halves rounded away from zero as C does."""
    level = tl.floor(value.to(tl.float64) * (1.0 - share) + 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(level, 0), 255)


@triton.jit
def _choose(sector, first, second, third, fourth, fifth, sixth):
    """The sector's level, of those for the sectors 0..5."""
    lower = tl.where(sector == 0, first, tl.where(sector == 1, second, third))
    upper = tl.where(sector == 3, fourth, tl.where(sector == 4, fifth, sixth))
    return tl.where(sector < 3, lower, upper)
