"""What pictures are made with: a model, images and their views, and noise that belongs to a sample's number."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_fast import counter_rng
from soda_fast.build import require_cameras, view_rays
from soda_fast.config import Config, trained_without_z
from soda_fast.config.schema import ViewConfig
from soda_fast.data import Dataset, ImageSet, iterate_views
from soda_fast.data.dataset import RGB
from soda_fast.data.pairs import Pairs
from soda_fast.data.statistics import Statistics
from soda_fast.data.unreadable import Readable
from soda_fast.data.view_cameras import view_cameras
from soda_fast.data.views import clean_plan, plan
from soda_fast.diffusion.sampler import Denoise
from soda_fast.model import SODA
from soda_fast.parallel import Processes
from soda_fast.sampling import denoise_under, sample_images, starting_noise, with_sampling
from soda_fast.synthesis.making import make_together

_AS_THEY_ARE: tuple[RGB, RGB] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Studio:
    """All random choices follow from config.run.seed: which images, their views, the noise.

    replaced: unreadable images of the shown split that others stood in for, and what to say of them.
    model: in eval mode, on the processes' device, whole on each of them. config: resolved; its `sampling` section says
    how images are made.
    """

    model: SODA
    dataset: Dataset
    config: Config
    processes: Processes
    replaced: dict[int, str] = field(default_factory=dict)

    @property
    def images(self) -> ImageSet:
        """Those of the test split; of the training split where there is none."""
        return self.dataset.test or self.dataset.train

    def choose(self, count: int, images: ImageSet | None = None) -> NDArray[np.int64]:
        """Places of `count` images of a split (None: `images`), drawn without repeats; of all if there are fewer.

        Those that are known to be unreadable are left out.
        """
        images = self.images if images is None else images
        keys = counter_rng.uniform(self.config.run.seed, "sample/choice", torch.arange(len(images)), 1)[:, 0]
        order = torch.argsort(keys, stable=True).numpy()
        return order[images.heights[order] > 0][:count]

    def sources(self, indices: NDArray[np.int64], view: ViewConfig | None = None) -> Tensor:
        """(N, 3, S, S) normalised views for the encoder, without noise; view: None: the central square."""
        size, statistics = self.config.data.source_size, (self.dataset.mean, self.dataset.std)
        return next(self._views(self.images, [indices], size, statistics, view, "source"))

    def targets(self, indices: NDArray[np.int64], view: ViewConfig | None = None) -> Tensor:
        """(N, 3, T, T) views in [0, 1], as the decoder is to make them."""
        size = self.config.data.target_size
        return next(self._views(self.images, [indices], size, _AS_THEY_ARE, view, "target"))

    def visible(self, sources: Tensor) -> Tensor:
        """Normalised views as the images in [0, 1] that they were."""
        return Statistics(self.dataset.mean, self.dataset.std, sources.device).restore(sources)

    def partners(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images (N,) whose views are the targets: another of each object under data.pairs, else the same.

        indices: (N,) of images that can be read. An object of a single image has that one.
        """
        if not self.config.data.pairs:
            return indices
        readable = np.flatnonzero(self.images.heights > 0)
        pairs = Pairs(self.images.labels[readable])
        return readable[pairs.draw(self.config.run.seed, indices, np.searchsorted(readable, indices))]

    def cameras(
        self,
        indices: NDArray[np.int64],
        images: ImageSet | None = None,
        view: ViewConfig | None = None,
        stream: str = "",
    ) -> Tensor | None:
        """(N, 3, 4) of views, or of their stand-ins' where images are unreadable; None under model.pose none.

        Args:
            indices: (N,) of the images.
            images: of which split; None: `images`.
            view: how the views are drawn; None: central squares.
            stream: "source" or "target", with a view.

        Raises:
            ValueError: model.pose is rays, and the data set has no poses.
        """
        if self.config.model.pose == "none":
            return None
        images = self.images if images is None else images
        of_train = images is self.dataset.train
        known = require_cameras(self.config, self.dataset.train_cameras if of_train else self.dataset.test_cameras)
        shown = Readable(images, self.config.data.on_unreadable).settled(indices)
        heights, widths = images.heights[shown], images.widths[shown]
        planned = (
            clean_plan(heights, widths)
            if view is None
            else plan(view, self.config.run.seed, stream, indices, heights, widths)
        )
        found = view_cameras(known[shown], planned, heights, widths)
        return torch.from_numpy(found).float().to(self.processes.device)

    @torch.no_grad()
    def encode(self, sources: Tensor, cameras: Tensor | None = None) -> Tensor:
        """z (N, D) of a few normalised views, on each process. cameras: (N, 3, 4) of them; None: not known."""
        size = self.config.data.source_size
        return self.model.encode(sources, None if cameras is None else view_rays(self.config, cameras, size))

    def encode_many(self, images: ImageSet, indices: NDArray[np.int64], title: str) -> Tensor:
        """z (N, D) of the central squares of many images and their cameras, all processes together. A collective."""
        size, statistics = self.config.data.source_size, (self.dataset.mean, self.dataset.std)

        def work(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            chosen = [indices[rows.numpy()] for rows in batches]
            for some, sources in zip(chosen, self._views(images, chosen, size, statistics), strict=True):
                yield self.encode(sources, self.cameras(some, images))

        return self._together(work, len(indices), (self.config.model.encoder.z_dim,), title)

    def targets_of_many(self, images: ImageSet, indices: NDArray[np.int64], title: str) -> Tensor:
        """(N, 3, T, T) central squares in [0, 1], all processes together. A collective."""
        size = self.config.data.target_size

        def work(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            return self._views(images, [indices[rows.numpy()] for rows in batches], size, _AS_THEY_ARE)

        return self._together(work, len(indices), (3, size, size), title)

    def make(self, z: Tensor, noise: Tensor, title: str, cameras: Tensor | None = None) -> Tensor:
        """Images (N, 3, T, T) from z (N, D), all processes together. A collective.

        noise: (N,) int64, numbers of the starting noise: equal numbers start from the same. cameras: (N, 3, 4) of the
        images; None: the decoder is told none.
        """
        return self._make(self.model.denoise, self.config, z, noise, title, cameras)

    def make_without_z(self, noise: Tensor, title: str) -> Tensor:
        """Images (N, 3, T, T) of a decoder that is told nothing. noise: as in `make`. A collective.

        Raises:
            ValueError: the decoder was never trained without z.
        """
        if not trained_without_z(self.config):
            raise ValueError(
                f"{title}: diffusion.drop_probability is 0, so the decoder was never trained without z; train a run "
                "with diffusion.drop_probability=0.1"
            )

        def denoise(x_t: Tensor, t: Tensor, z: Tensor, drop_mask: Tensor) -> Tensor:
            return self.model.denoise(x_t, t, z, torch.ones_like(drop_mask))

        nothing = torch.zeros(len(noise), self.config.model.encoder.z_dim, device=self.processes.device)
        # Guidance compares with and without z, which here are the same.
        return self._make(denoise, with_sampling(self.config, {"guidance": 0.0}), nothing, noise, title)

    def _make(
        self,
        denoise: Denoise,
        config: Config,
        z: Tensor,
        noise: Tensor,
        title: str,
        cameras: Tensor | None = None,
    ) -> Tensor:
        size = config.data.target_size

        def work(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            for rows in batches:
                numbers, here = noise[rows].to(z.device), rows.to(z.device)
                told = denoise
                if cameras is not None:
                    told = denoise_under(denoise, view_rays(config, cameras[here], size))
                yield sample_images(told, config, z[here], starting_noise(config, numbers), numbers)

        return self._together(work, len(z), (3, size, size), title)

    def _together(
        self, work: Callable[[Sequence[Tensor]], Iterable[Tensor]], count: int, shape: tuple[int, ...], title: str
    ) -> Tensor:
        return make_together(work, count, shape, self.config.sampling.batch_images, self.processes, title)

    def _views(
        self,
        images: ImageSet,
        batches: Sequence[NDArray[np.int64]],
        size: int,
        statistics: tuple[RGB, RGB],
        view: ViewConfig | None = None,
        stream: str = "",
    ) -> Iterator[Tensor]:
        mean, std = statistics
        views = iterate_views(
            images,
            batches,
            size=size,
            mean=mean,
            std=std,
            data=self.config.data,
            device=self.processes.device,
            view=view,
            seed=self.config.run.seed,
            stream=stream,
            replaced=self.replaced,
        )
        return (some for some, _ in views)
