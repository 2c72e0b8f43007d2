"""The contestants of benchmarks.input_pipeline: each an endless stream of batches of both views, opened and closed."""

import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from soda_fast.config.schema import DataConfig, ViewConfig
from soda_fast.data import TrainLoader
from soda_fast.data.image_files import scan
from soda_fast.data.image_set import ArrayImages, ImageSet
from soda_fast.data.resident import make_resident

EPOCH_IMAGES = 50_000  # after which the reference's workers end and new ones start

MEAN, STD, NOISE = (0.48, 0.45, 0.40), (0.23, 0.23, 0.23), 0.1
Opened = AbstractContextManager[Iterator[object]]  # of batches
Decode = Callable[[int], Image.Image]


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
    """The same images as our loaders and as torchvision's data sets hold them."""

    ours: ImageSet
    decode: Decode


def make_images(case: Case, folder: Path, count: int) -> Images:
    """Smooth pictures with some noise, which as JPEGs of quality 90 are about as large as photographs."""
    generator = np.random.default_rng(0)
    pictures = (_picture(generator, case.height, case.width) for _ in range(count))
    labels = np.zeros(count, np.int64)
    if not case.encoded:
        pixels = np.stack(list(pictures))
        return Images(ArrayImages(pixels, labels, "image"), lambda index: Image.fromarray(pixels[index]))
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path, quality=90)
    ours = make_resident(scan(paths, labels), folder, "benchmark", DataConfig().resident_mib << 20, threads=1)
    return Images(ours, lambda index: Image.open(io.BytesIO(paths[index].read_bytes())).convert("RGB"))


def _picture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = generator.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + generator.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def settings(case: Case) -> DataConfig:
    """The reference's views of both, with or without RandAugment."""
    view = ViewConfig() if case.randaugment else ViewConfig(randaugment_probability=0.0, randaugment_num_ops=0)
    return DataConfig(source_size=case.source_size, target_size=case.target_size, source=view, target=view)


def open_ours(case: Case, images: Images, backend: str, device: torch.device, threads: int, batch: int) -> Opened:
    """TrainLoader, as in training."""

    @contextmanager
    def opened() -> Iterator[Iterator[object]]:
        data = replace(settings(case), backend=backend, threads=threads, source_noise=NOISE)
        loader = TrainLoader(
            images.ours, data, MEAN, STD,
            seed=0, global_batch=batch, rank=0, world=1, parts=1, start_position=0, device=device,
        )  # fmt: skip
        try:
            yield loader
        finally:
            loader.close()

    return opened()


class _Views(Dataset[tuple[Tensor, Tensor]]):
    """Both views of an image, by torchvision on Pillow images, as the reference implementation makes them."""

    def __init__(self, case: Case, decode: Decode, count: int, decodes: int) -> None:
        self.decode, self.count, self.decodes = decode, count, decodes
        scale = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD), T.Lambda(_noisy)])
        self.source = _augment(case.source_size, case.randaugment, scale)
        self.target = _augment(case.target_size, case.randaugment, T.ToTensor())

    def __len__(self) -> int:
        return EPOCH_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index %= self.count
        image = self.decode(index)
        again = self.decode(index) if self.decodes == 2 else image
        return self.source(image), self.target(again)


def _noisy(view: Tensor) -> Tensor:
    return view + NOISE * torch.randn_like(view)


def _augment(size: int, randaugment: bool, finish: Callable[..., Tensor]) -> Callable[[Image.Image], Tensor]:
    crop = T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip()])
    square = T.Compose([T.Resize(size), T.CenterCrop(size)])
    view = ViewConfig()

    def augment(image: Image.Image) -> Tensor:
        image = crop(image) if torch.rand(1).item() < view.crop_flip_probability else square(image)
        if randaugment and torch.rand(1).item() < view.randaugment_probability:
            image = operations(image)
        return finish(image)

    operations = T.RandAugment(view.randaugment_num_ops, view.randaugment_magnitude)
    return augment


def open_torchvision(case: Case, images: Images, workers: int, batch: int, decodes: int) -> Opened:
    """A DataLoader with `workers` processes. decodes: 2, one for each view, or 1."""

    @contextmanager
    def opened() -> Iterator[Iterator[object]]:
        views = _Views(case, images.decode, len(images.ours), decodes)
        loader = DataLoader(
            views, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=decodes == 1,
            multiprocessing_context="fork",
        )  # fmt: skip
        # The iterator ends its workers when it is let go.
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        yield batches
        del batches, loader

    return opened()


def open_synthetic(case: Case, device: torch.device, batch: int) -> Opened:
    """One batch, given out again and again: what a loader costs that costs nothing."""

    @contextmanager
    def opened() -> Iterator[Iterator[object]]:
        views = [torch.zeros(batch, 3, size, size, device=device) for size in (case.source_size, case.target_size)]
        yield itertools.repeat(views)

    return opened()
