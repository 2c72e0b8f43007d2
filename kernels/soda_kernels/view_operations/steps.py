"""What the kernel can do to a view, as numbers."""

from enum import IntEnum

FIELDS = 7
"""Of a step: a `Step`, and its numbers."""


class Step(IntEnum):
    """An operation, and the numbers that it takes; levels are grey levels, 0..255."""

    IDENTITY = 0
    """None."""
    WARP = 1
    """a, b, c, d, e, f: pixel (x, y) of the result shows ((a x + b y + c) >> 16, (d x + e y + f) >> 16), or black."""
    BRIGHTNESS = 2
    """Bits of a float32 factor, as for the next three: 0 gives black, 1 the view, more goes beyond it."""
    COLOR = 3
    """0 gives each pixel's grey."""
    CONTRAST = 4
    """0 gives the view's mean grey."""
    SHARPNESS = 5
    """0 gives the view smoothed."""
    POSTERIZE = 6
    """The bits of a level that are kept, as a mask."""
    SOLARIZE = 7
    """The first level that is inverted."""
    AUTO_CONTRAST = 8
    """None."""
    EQUALIZE = 9
    """None."""
    HUE = 10
    """255ths of a turn of the colour circle."""
    GRAYSCALE = 11
    """None."""
