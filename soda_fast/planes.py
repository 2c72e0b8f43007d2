"""From the grey levels of pixels to planes of numbers, on a CPU."""

from torch import Tensor

from soda_kernels import fill_planes


def look_up(planes: Tensor, pixels: Tensor, table: Tensor) -> None:
    """planes[n, c, y, x] = table[c, pixels[n, y, x, c]].

    Args:
        planes: (N, 3, H, W) float32, contiguous; overwritten.
        pixels: (N, H, W, 3) uint8, contiguous.
        table: (3, 256) float32, contiguous.
    """
    if not fill_planes(planes, pixels, table):
        for channel, values in enumerate(table):
            planes[:, channel] = values[pixels[..., channel].long()]
