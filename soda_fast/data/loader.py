"""Order, plan, backend, finish: from positions of the run to batches on the device."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.config.schema import DataConfig, ViewConfig
from soda_fast.data.batch import Batch
from soda_fast.data.dataset import RGB
from soda_fast.data.executor import default_threads, make_executor
from soda_fast.data.finish import Finish, to_unit
from soda_fast.data.image_set import ImageSet
from soda_fast.data.order import local_positions, sample_indices, target_positions
from soda_fast.data.pairs import Pairs
from soda_fast.data.prefetch import Prefetcher
from soda_fast.data.statistics import Statistics
from soda_fast.data.transfer import to_device
from soda_fast.data.unreadable import Readable, Replaced, describe_replaced
from soda_fast.data.view_cameras import ViewCameras
from soda_fast.data.views import ViewPlan, clean_plan, plan


class TrainLoader:
    """One process's part of every global batch from a position on, without end.

    Iterating yields `Batch`es: parts 0..parts-1 of this process's share of the first global batch, then those of the
    next. Nothing depends on threads, backend state or what was drawn before: a loader started at a position gives what
    one started earlier would give from there on.

    Args:
        images: the training images.
        data: the `data` section of the configuration.
        mean, std: of the source view's channels.
        seed: of the run.
        global_batch: images of one optimisation step over all processes; a multiple of world * parts.
        rank, world: this process among all.
        parts: accumulation parts of a process's share.
        start_position: images seen before the first batch.
        device: where the batches lie.
        cameras: (len(images), 3, 4), of the whole images; None: not known.
        many_calls: so many batches will be taken that a copy of all images on a GPU pays; False: from host memory.

    Raises:
        ValueError: no images, or DALI is missing. `next` raises it for an image that cannot be decoded, naming the
            file.
    """

    def __init__(
        self,
        images: ImageSet,
        data: DataConfig,
        mean: RGB,
        std: RGB,
        *,
        seed: int,
        global_batch: int,
        rank: int,
        world: int,
        parts: int,
        start_position: int,
        device: torch.device,
        cameras: NDArray[np.float64] | None = None,
        many_calls: bool = True,
    ) -> None:
        rows = len(local_positions(start_position, global_batch, rank, world, 0, parts))
        if not len(images):
            raise ValueError("data.root: the training split holds no images")
        self._pairs = Pairs(images.labels) if data.pairs else None
        sizes = (data.source_size, *[data.target_size] * data.targets_per_source)
        self._execute = make_executor(images, sizes, data, device, rows, many_calls=many_calls, paired=data.pairs)
        threads = data.threads or default_threads()
        self._finish = Finish(mean, std, data.source_noise, seed, device, threads)

        def batches() -> Iterator[Batch]:
            start = start_position
            while True:
                for part in range(parts):
                    yield self._batch(local_positions(start, global_batch, rank, world, part, parts))
                start += global_batch

        self._readable = Readable(images, data.on_unreadable)
        self._images, self._data, self._seed, self._device = images, data, seed, device
        drop = data.camera_drop_probability
        self._cameras = None if cameras is None else ViewCameras(cameras, images, seed, drop)
        self._prefetched = Prefetcher(batches, data.prefetch_batches, device, _tensors)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._prefetched)

    @property
    def replaced(self) -> list[Replaced]:
        """Unreadable images that this process met so far, a few batches ahead of those it gave out."""
        return self._readable.replaced

    def close(self) -> None:
        """Stop the background thread and free the backend."""
        self._prefetched.close()
        self._execute.close()
        self._finish.close()

    def _batch(self, positions: NDArray[np.int64]) -> Batch:
        images, data, seed = self._images, self._data, self._seed
        indices = sample_indices(seed, positions, len(images))
        chosen = indices if self._pairs is None else np.stack((indices, self._pairs.draw(seed, positions, indices)))
        targets = [target_positions(positions, number) for number in range(data.targets_per_source)]

        def planned(heights: NDArray[np.int64], widths: NDArray[np.int64]) -> list[ViewPlan]:
            # Of a pair the sizes of either image, else of the one that all views are of.
            heights, widths = (np.broadcast_to(v, (1 + len(targets), len(positions))) for v in (heights, widths))
            return [
                plan(data.source, seed, "source", positions, heights[0], widths[0]),
                *(
                    plan(data.target, seed, "target", where, height, width)
                    for where, height, width in zip(targets, heights[1:], widths[1:], strict=True)
                ),
            ]

        place = to_device(positions, self._device)
        (source, *views), shown, plans = self._readable.views(self._execute, chosen, planned)
        source, target = self._finish(source, _side_by_side(views), place)
        return Batch(
            source=source,
            target=target,
            position=place,
            index=to_device(indices, self._device),
            label=to_device(images.labels[indices], self._device),
            **self._view_cameras(shown, plans, [positions, *targets]),
        )

    def _view_cameras(
        self,
        shown: NDArray[np.int64],
        plans: Sequence[ViewPlan],
        positions: Sequence[NDArray[np.int64]],
    ) -> dict[str, Tensor]:
        """The batch's cameras: of the images (N,), or of each view (V, N), that it does show.

        plans: V of them, and positions (N,) of each view.
        """
        if self._cameras is None:
            return {}
        shown = np.broadcast_to(shown, (len(positions), shown.shape[-1]))
        streams = ["source"] + ["target"] * (len(positions) - 1)
        source, *targets = (
            to_device(self._cameras(*view), self._device) for view in zip(streams, positions, shown, plans, strict=True)
        )
        return {"source_camera": source, "target_camera": _side_by_side(targets)}


def _side_by_side(targets: list[Tensor]) -> Tensor:
    """(N, ...) of each target -> (N * K, ...): the K targets of a source next to each other."""
    return targets[0] if len(targets) == 1 else torch.stack(targets, dim=1).flatten(0, 1)


def _tensors(batch: Batch) -> list[Tensor]:
    return [value for value in vars(batch).values() if value is not None]


def iterate_views(
    images: ImageSet,
    batches: Iterable[NDArray[np.int64]],
    *,
    size: int,
    mean: RGB,
    std: RGB,
    data: DataConfig,
    device: torch.device,
    view: ViewConfig | None = None,
    seed: int = 0,
    epoch: int = 0,
    stream: str = "probe",
    replaced: dict[int, str] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised views without noise, for feature extraction.

    Args:
        images: the images of one split.
        batches: indices of each batch, (B,) int64 with any B; process r of w may take its own share of them.
        size: side of the view in pixels.
        mean, std: of the channels.
        data: `backend`, `kernels`, `threads`, `prefetch_batches` and `on_unreadable` are read.
        device: where the views end up.
        view: how to draw the views; None: the central square.
        seed, epoch, stream: what the drawn views follow from, with each image's index.
        replaced: gets the unreadable images that others stand in for, and what to say of them; None: each is a warning.

    Yields:
        (B, 3, size, size) float32 and (B,) int64 indices, in the order of `batches`.

    Raises:
        ValueError: an image cannot be read or decoded; names the file.
    """
    batches = [np.asarray(batch, np.int64) for batch in batches]
    readable = Readable(images, data.on_unreadable)
    execute = make_executor(images, (size,), data, device, max((len(batch) for batch in batches), default=1))
    statistics = Statistics(mean, std, device)

    def make() -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            positions = indices + epoch * len(images)

            def planned(
                heights: NDArray[np.int64], widths: NDArray[np.int64], positions: NDArray[np.int64] = positions
            ) -> list[ViewPlan]:
                if view is None:
                    return [clean_plan(heights, widths)]
                return [plan(view, seed, stream, positions, heights, widths)]

            (pixels,), _, _ = readable.views(execute, indices, planned)
            yield statistics.normalise(to_unit(pixels)), to_device(indices, device)

    prefetched = Prefetcher(make, data.prefetch_batches, device, list)
    try:
        for batch in prefetched:
            if replaced is not None:
                replaced |= {found.index: describe_replaced(found, images) for found in readable.replaced}
            yield batch
        if replaced is None:
            for found in readable.replaced:
                warnings.warn(describe_replaced(found, images), stacklevel=2)
    finally:
        prefetched.close()
        execute.close()
