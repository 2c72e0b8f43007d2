"""Plans carried out on whole batches of decoded images of one size, on any device.

On a GPU Triton kernels make each view in two launches (`fused_views.py`): Python's threads take turns, and hundreds of
launches for a batch would hold up the one that trains. Without these kernels tensor operations take about 700, whatever
the batch, where DALI sets up every sample by itself. Nothing here waits for the device. On a CPU threads share the rows
of a batch, and compiled code goes through them image by image where there is a compiler (`soda_fast/pixels.py`), else
tensor operations do.

Beside torchvision on Pillow images, on CPUs and GPUs alike: equal in every grey level. One exception: where a box's
height is reduced by more than twice as many pixels as its width, Pillow 13 and later resize it along its height first,
and round in between; there a view may differ by one level. Boxes no larger than the view are never such.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.config.types import Kernels
from soda_fast.data.image_set import DecodedImages
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.resize_weights import PRECISION_BITS, resize_weights
from soda_fast.data.row_threads import RowThreads
from soda_fast.data.transfer import to_device
from soda_fast.data.views import ViewPlan
from soda_fast.fused_views import resize, resizes, threads_share_rows
from soda_fast.pixels import resize as resize_compiled

_CACHED_BYTES = 1 << 19  # of images that a CPU's thread works on at once


class BatchedExecutor:
    """Makes views of decoded images.

    Args:
        images: decoded images of one size.
        sizes: side of each view in pixels.
        device: where the views end up and are made.
        threads: CPU threads.
        on_device: keep a copy of all images in the device's memory.
        kernels: data.kernels.
    """

    def __init__(
        self,
        images: DecodedImages,
        sizes: Sequence[int],
        device: torch.device,
        threads: int,
        on_device: bool,
        kernels: Kernels = "auto",
    ) -> None:
        self._images, self._device, self._sizes, self._kernels = images, device, tuple(sizes), kernels
        height, width, _ = images.shape
        self._resizes = [Resize(height, width, size, device, kernels) for size in sizes]
        self._resident = torch.from_numpy(images.take(np.arange(len(images)))).to(device) if on_device else None
        self._threads = RowThreads(threads, "soda-fast-views") if threads_share_rows(kernels, device) else None

    def __call__(self, indices: NDArray[np.int64], plans: Sequence[ViewPlan]) -> list[Tensor]:
        """As ViewExecutor."""
        if self._threads is None:
            return self._make(indices, plans)
        shapes = [(len(plan), size, size, 3) for plan, size in zip(plans, self._sizes, strict=True)]
        views = [torch.empty(shape, dtype=torch.uint8, device="cpu") for shape in shapes]

        def work(rows: slice) -> None:
            for view, made in zip(views, self._make(indices[..., rows], [plan.rows(rows) for plan in plans])):
                view[rows] = made

        most = _CACHED_BYTES // max(self._images.image_bytes, *(view[0].numel() for view in views))
        self._threads.for_rows(work, indices.shape[-1], max(1, most))
        return views

    def _make(self, indices: NDArray[np.int64], plans: Sequence[ViewPlan]) -> list[Tensor]:
        taken = [self._take(indices)] * len(plans) if indices.ndim == 1 else [self._take(row) for row in indices]
        return [
            apply_operations(resized(images, plan), plan, self._kernels)
            for resized, images, plan in zip(self._resizes, taken, plans, strict=True)
        ]

    def _take(self, indices: NDArray[np.int64]) -> Tensor:
        if self._resident is None:
            return to_device(self._images.take(indices), self._device)
        return self._resident[to_device(indices, self._device)]

    def close(self) -> None:
        """Free threads and device memory."""
        self._resident = None
        if self._threads is not None:
            self._threads.close()


class Resize:
    """Cuts out boxes, resizes them to squares, mirrors them.

    Args:
        height, width: of all images, in pixels.
        size: side of the views in pixels.
        device: where all this happens.
        kernels: data.kernels.
    """

    def __init__(self, height: int, width: int, size: int, device: torch.device, kernels: Kernels = "auto") -> None:
        first_and_weights = resize_weights(max(height, width), size)
        self._first, self._weights = (torch.from_numpy(numbers).to(device) for numbers in first_and_weights)
        # So that the numbers between, which take four times the room and more, stay in a core's cache.
        self._cached_rows = max(1, _CACHED_BYTES // 4 // (height * width * 3))
        self._fused = resizes(kernels, device, size, self._weights.shape[2])

    def __call__(self, images: Tensor, plan: ViewPlan) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, S, S, 3) uint8."""
        numbers = np.stack((plan.top, plan.left, plan.height, plan.width, plan.flip.astype(np.int64)), axis=1)
        boxes = to_device(numbers, images.device)
        if self._fused:
            return resize(images, boxes, self._first, self._weights, PRECISION_BITS)
        if images.device.type != "cpu":
            return self._make(images, boxes)
        views = resize_compiled(images, boxes, self._first, self._weights)
        if views is None:
            parts = zip(images.split(self._cached_rows), boxes.split(self._cached_rows), strict=True)
            views = torch.cat([self._make(*part) for part in parts])
        return views

    def _make(self, images: Tensor, boxes: Tensor) -> Tensor:
        top, left, height, width, flip = boxes.T
        columns, column_weights = left[:, None] + self._first[width], self._weights[width]
        mirrored = flip.bool()[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
        column_weights = torch.where(mirrored[..., None], column_weights.flip(1), column_weights)
        rows, row_weights = top[:, None] + self._first[height], self._weights[height]
        wide = _weighted_sum(images, 2, columns[:, None, :, None], column_weights[:, None, :, None])
        return _weighted_sum(wide, 1, rows[:, :, None, None], row_weights[:, :, None, None])


def _weighted_sum(images: Tensor, dim: int, first: Tensor, weights: Tensor) -> Tensor:
    """One pass of a resizing: along `dim`, each result is the sum of K pixels from `first` on, rounded as Pillow does.

    Args:
        images: (N, H, W, 3) uint8.
        dim: 1 or 2.
        first: int64, of the result's shape with 1 where it does not matter.
        weights: int32, the same with K at the end.
    """
    shape = list(images.shape)
    shape[dim] = first.shape[dim]
    total = torch.full(shape, 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=images.device)
    for tap in range(weights.shape[-1]):
        # A pixel beyond the last has weight 0, but must exist.
        place = (first + tap).clamp_(max=images.shape[dim] - 1).expand(shape)
        total.addcmul_(images.gather(dim, place).to(torch.int32), weights[..., tap])
    return (total >> PRECISION_BITS).clamp_(0, 255).to(torch.uint8)
