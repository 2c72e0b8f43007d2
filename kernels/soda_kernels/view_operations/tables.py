"""Operations that look a whole channel over first.

levels: int32 in 0..255. exists: which of them belong to the view.
"""

import triton
import triton.language as tl


@triton.jit
def auto_contrast(levels, exists):
    """Stretched to 0..255, in float64, because Pillow makes its table in Python."""
    low = tl.min(tl.where(exists, levels, 255))
    high = tl.max(tl.where(exists, levels, 0))
    scale = 255.0 / tl.maximum(high - low, 1).to(tl.float64)
    stretched = levels.to(tl.float64) * scale + -low.to(tl.float64) * scale
    stretched = tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32)
    return tl.where(high > low, stretched, levels)


@triton.jit
def equalize(levels, exists, COUNT: tl.constexpr):
    """The histogram of the COUNT levels that exist made flat."""
    # Those that do not exist are counted as black, and taken off again.
    histogram = tl.histogram(tl.where(exists, levels, 0), 256)
    each = tl.arange(0, 256)
    histogram -= tl.where(each == 0, levels.shape[0] - COUNT, 0)
    highest = tl.max(tl.where(exists, levels, 0))
    step = (COUNT - tl.sum(tl.where(each == highest, histogram, 0))) // 255
    before = tl.cumsum(histogram, 0) - histogram
    table = tl.minimum((step // 2 + before) // tl.maximum(step, 1), 255)
    return tl.where(step > 0, tl.gather(table, levels, 0), levels)
