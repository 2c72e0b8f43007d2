"""Pixels in 32 bits: red, green << 8, blue << 16."""

import triton
import triton.language as tl


@triton.jit
def pack(red, green, blue):
    """Levels, int32 in 0..255, into pixels."""
    return red | (green << 8) | (blue << 16)


@triton.jit
def level(image, CHANNEL: tl.constexpr):
    """Of one channel, int32 in 0..255."""
    return (image >> (8 * CHANNEL)) & 0xFF


@triton.jit
def grey(image):
    """Pillow's conversion to "L", int32 in 0..255."""
    return (level(image, 0) * 19595 + level(image, 1) * 38470 + level(image, 2) * 7471 + 0x8000) >> 16
