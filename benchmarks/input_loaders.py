"""The contestants of benchmarks.input_pipeline: each an endless stream of batches of both views, opened and closed."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.ladder.worker_loader import SourceTargetImages, open_image
from soda_fast.config import Config
from soda_fast.config.schema import DataConfig, ViewConfig
from soda_fast.config.types import Kernels
from soda_fast.data import Dataset, TrainLoader
from soda_fast.data.image_files import scan
from soda_fast.data.image_set import ArrayImages, ImageSet
from soda_fast.data.resident import make_resident

EPOCH_IMAGES = 50_000  # after which the reference's workers end and new ones start

MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.23, 0.23)
Opened = AbstractContextManager[Iterator[object]]  # of batches
Backend = Literal["dali", "batched"]


@dataclass(frozen=True)
class Case:
    """What is measured. height, width: of the stored images. encoded: JPEG files, else pixels in memory."""

    name: str
    source_size: int
    target_size: int
    height: int
    width: int
    encoded: bool
    randaugment: bool


@dataclass(frozen=True)
class Images:
    """The same images as our loaders hold them, who decode small ones beforehand, and as they are stored."""

    ours: ImageSet
    stored: ImageSet


def make_images(case: Case, folder: Path, count: int) -> Images:
    """Smooth pictures with some noise, which as JPEGs of quality 90 are about as large as photographs."""
    generator = np.random.default_rng(0)
    pictures = (_picture(generator, case.height, case.width) for _ in range(count))
    labels = np.zeros(count, np.int64)
    if not case.encoded:
        pixels = np.stack(list(pictures))
        decoded = ArrayImages(pixels, labels, "image")
        return Images(decoded, decoded)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path, quality=90)
    stored = scan(paths, labels)
    ours = make_resident(stored, folder, "benchmark", DataConfig().resident_mib << 20, threads=1)
    return Images(ours, stored)


def _picture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = generator.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + generator.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def settings(case: Case) -> DataConfig:
    """The reference's views of both, with or without RandAugment."""
    view = ViewConfig() if case.randaugment else ViewConfig(randaugment_probability=0.0, randaugment_num_ops=0)
    return DataConfig(source_size=case.source_size, target_size=case.target_size, source=view, target=view)


@contextmanager
def open_ours(
    case: Case, images: Images, backend: Backend, device: torch.device, threads: int, batch: int, kernels: Kernels
) -> Iterator[Iterator[object]]:
    """TrainLoader, as in training."""
    data = replace(settings(case), backend=backend, threads=threads, kernels=kernels)
    loader = TrainLoader(
        images.ours, data, MEAN, STD,
        seed=0, global_batch=batch, rank=0, world=1, parts=1, start_position=0, device=device,
    )  # fmt: skip
    try:
        yield loader
    finally:
        loader.close()


class _Views(TorchDataset[tuple[Tensor, Tensor]]):
    """Both views of an image, as the reference implementation makes them. decodes: 2, one for each view, or 1."""

    def __init__(self, case: Case, stored: ImageSet, decodes: int) -> None:
        self.both = SourceTargetImages(
            Config(data=settings(case)), Dataset("benchmark", stored, None, ("only",), MEAN, STD)
        )
        self.decodes = decodes

    def __len__(self) -> int:
        return EPOCH_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index %= len(self.both)
        if self.decodes == 2:
            return self.both[index]
        image = open_image(self.both.images, index)
        return self.both.source(image), self.both.target(image)


@contextmanager
def open_torchvision(case: Case, images: Images, workers: int, batch: int, decodes: int) -> Iterator[Iterator[object]]:
    """A DataLoader with `workers` processes. decodes: 2, one for each view, or 1."""
    views = _Views(case, images.stored, decodes)
    loader = DataLoader(
        views, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=decodes == 1,
        multiprocessing_context="fork",
    )  # fmt: skip
    # The iterator ends its workers when it is let go.
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    yield batches
    del batches, loader


@contextmanager
def open_synthetic(case: Case, device: torch.device, batch: int) -> Iterator[Iterator[object]]:
    """One batch, given out again and again: what a loader costs that costs nothing."""
    views = [torch.zeros(batch, 3, size, size, device=device) for size in (case.source_size, case.target_size)]
    yield itertools.repeat(views)
