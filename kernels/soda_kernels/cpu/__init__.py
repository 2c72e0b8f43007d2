"""What a CPU does to every pixel of every batch, in C, so that threads do not wait for one another in Python."""

from soda_kernels.cpu.normal import counter_normal
from soda_kernels.cpu.pixels import change_images
from soda_kernels.cpu.planes import fill_planes
from soda_kernels.cpu.resize import resize_boxes

__all__ = ["change_images", "counter_normal", "fill_planes", "resize_boxes"]
