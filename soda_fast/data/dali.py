"""Plans carried out by DALI: on a GPU where one is given, else on CPU threads.

DALI decodes, cuts, resizes and mirrors; all further operations follow on the same device, in `pixel_operations.py`.
DALI's own conditionals would split the batch for every operation, which costs more than all operations together.

Beside torchvision, on CPUs: the same decoded pixels; resized views differ by at most one grey level, except on the
outermost pixels of a view that was made smaller, where DALI repeats the box's edge and Pillow shortens the filter.

GPUs with a JPEG decoder of their own (A100, H100 and later) get a share of each batch, and kernels decode the rest,
perhaps with other last bits: then an image's pixels may depend on which batch it is in, and so on the number of
processes. Under torch's deterministic algorithms (train.deterministic) kernels decode all.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor

from soda_fast.config.types import Kernels
from soda_fast.data.image_set import DecodedImages, ImageSet
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.row_threads import RowThreads
from soda_fast.data.unreadable import map_readable
from soda_fast.data.views import ViewPlan
from soda_fast.fused_views import threads_share_rows
from soda_fast.store.pictures import encode_png

_CACHED_VALUES = 1 << 19  # of views operated on at once on a CPU: groups large enough, arrays small enough


class DaliExecutor:
    """One DALI pipeline, fed batch by batch.

    Args:
        images: where the images come from.
        sizes: side of each view in pixels.
        device: where the views end up; DALI's operators run there too.
        threads: CPU threads of the pipeline.
        max_batch: most images of a call; of pairs, most pairs.
        paired: the views are of different images.
        kernels: data.kernels.
    """

    def __init__(
        self,
        images: ImageSet,
        sizes: Sequence[int],
        device: torch.device,
        threads: int,
        max_batch: int,
        paired: bool = False,
        kernels: Kernels = "auto",
    ) -> None:
        self.images, self.device, self._threads, self._max_batch = images, device, threads, max_batch
        self._views = range(len(sizes))
        self._sizes, self._paired, self._kernels = tuple(sizes), paired, kernels
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="soda-fast-read")
        self._rows = RowThreads(threads, "soda-fast-operate") if threads_share_rows(kernels, device) else None
        self._pipeline = self._build()

    def __call__(self, indices: NDArray[np.int64], plans: Sequence[ViewPlan]) -> list[Tensor]:
        """As ViewExecutor. Raises UnreadableImages naming all that cannot be decoded.

        A RuntimeError of the device or of memory is raised as DALI has it; the executor cannot go on after it.
        """
        assert indices.ndim == 1 + self._paired, "the pipeline is built for pairs or for single images"
        rows = np.atleast_2d(indices)
        outputs = self._try([self._read(row) for row in rows], plans)
        if outputs is None:
            outputs = self._run([self._decode(row) for row in rows], plans)
        views = [self._copy(output) for output in outputs]
        for view, plan in zip(views, plans, strict=True):
            self._operate(view, plan)
        return views

    def _operate(self, views: Tensor, plan: ViewPlan) -> None:
        """The plan's operations in place, on the whole batch at once or on the threads of a CPU."""
        if self._rows is None:
            apply_operations(views, plan, self._kernels)
            return

        def work(rows: slice) -> None:
            apply_operations(views[rows], plan.rows(rows), self._kernels)

        self._rows.for_rows(work, len(views), max(1, _CACHED_VALUES // views[0].numel()))

    def _try(self, inputs: Sequence[Any], plans: Sequence[ViewPlan]) -> Any:
        """The pipeline's outputs; None if it cannot decode an image."""
        try:
            return self._run(inputs, plans)
        except RuntimeError as error:
            if not self.images.encoded or _is_of_the_device(error):
                raise
            # DALI says only that something failed to decode, and calls its pipeline unusable.
            self._pipeline = self._build()
            return None

    def _run(self, inputs: Sequence[Any], plans: Sequence[ViewPlan]) -> Any:
        pipeline = self._pipeline
        for number, images in enumerate(inputs):
            pipeline.feed_input(f"images{number}", images, layout=None if self.images.encoded else "HWC")
        for number, plan in zip(self._views, plans, strict=True):
            pipeline.feed_input(f"start{number}", np.stack((plan.top, plan.left), axis=1).astype(np.int32))
            pipeline.feed_input(f"shape{number}", np.stack((plan.height, plan.width), axis=1).astype(np.int32))
            pipeline.feed_input(f"flip{number}", plan.flip.astype(np.int32))
        return pipeline.run()

    def close(self) -> None:
        """Free the pipeline's threads and memory."""
        self._pool.shutdown(cancel_futures=True)
        if self._rows is not None:
            self._rows.close()
        self._pipeline = None

    def _read(self, indices: NDArray[np.int64]) -> Any:
        if isinstance(self.images, DecodedImages):
            return self.images.take(indices)
        return map_readable(self._pool, self.images.read, indices.tolist())

    def _decode(self, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The images as PNGs of what Pillow decodes, which also tells those apart that it cannot."""
        pixels = map_readable(self._pool, self.images.decode, indices.tolist())
        return [np.frombuffer(encode_png(image, compress_level=1), np.uint8) for image in pixels]

    def _build(self) -> Any:
        gpu = None
        if self.device.type == "cuda":
            gpu = torch.cuda.current_device() if self.device.index is None else self.device.index
        pipeline = _pipeline(
            self.images.encoded,
            self._sizes,
            self._paired,
            gpu is not None,
            torch.are_deterministic_algorithms_enabled(),
            batch_size=self._max_batch,
            num_threads=self._threads,
            device_id=gpu,
            prefetch_queue_depth=1,
            seed=0,
        )
        pipeline.build()
        return pipeline

    def _copy(self, output: Any) -> Tensor:
        """A tensor of our own: DALI writes over its memory in the next call."""
        view = torch.from_dlpack(output.as_tensor()).clone()
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return view


_OF_THE_DEVICE = (
    *("cuda runtime api error", "cuda driver api error", "cuda allocation failed"),
    *("can't allocate", "cannot allocate memory", "out of memory", "bad_alloc"),
)


def _is_of_the_device(error: RuntimeError) -> bool:
    """Whether a pipeline failed for want of memory or in CUDA; DALI has one class of errors for all that happens."""
    text = str(error).lower()
    return any(sign in text for sign in _OF_THE_DEVICE)


@pipeline_def
def _pipeline(
    encoded: bool, sizes: tuple[int, ...], paired: bool, on_gpu: bool, deterministic: bool
) -> tuple[Any, ...]:
    """Each view is (S, S, 3) uint8. DALI draws nothing: all of its numbers are fed."""
    images = [_images(number, encoded, on_gpu, deterministic) for number in range(len(sizes) if paired else 1)]
    return tuple(_view(images[number if paired else 0], number, size) for number, size in enumerate(sizes))


def _images(number: int, encoded: bool, on_gpu: bool, deterministic: bool) -> Any:
    images = fn.external_source(name=f"images{number}", dtype=types.DALIDataType.UINT8, ndim=1 if encoded else 3)
    if encoded:
        images = fn.decoders.image(
            images,
            device="mixed" if on_gpu else "cpu",
            output_type=types.DALIImageType.RGB,
            adjust_orientation=False,  # tags of orientation are ignored, as torchvision's datasets ignore them
            jpeg_fancy_upsampling=True,  # colours of a JPEG smoothed on a GPU as on a CPU
            hw_decoder_load=0.0 if deterministic else None,  # None: DALI's default
        )
    elif on_gpu:
        images = images.gpu()
    return images


def _view(images: Any, number: int, size: int) -> Any:
    start = fn.external_source(name=f"start{number}", dtype=types.DALIDataType.INT32, ndim=1)
    shape = fn.external_source(name=f"shape{number}", dtype=types.DALIDataType.INT32, ndim=1)
    flip: Any = fn.external_source(name=f"flip{number}", dtype=types.DALIDataType.INT32, ndim=0)
    box = fn.slice(images, start=start, shape=shape, axes=(0, 1))
    square: Any = fn.resize(box, size=[size, size], interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True)
    return fn.flip(square, horizontal=flip)
