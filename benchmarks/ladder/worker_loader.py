"""The reference's way to images: Pillow and torchvision in DataLoader workers, each view from an image of its own."""

from collections.abc import Generator, Iterator

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from soda_fast.config import Config
from soda_fast.config.schema import ViewConfig
from soda_fast.cores import whole_cores
from soda_fast.data import Batch, Dataset
from soda_fast.data.image_set import FileImages, ImageSet

AHEAD = 2  # batches that each worker prepares ahead: DataLoader's default


class SourceTargetImages(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Both views of each image. The reference keeps a data set for each, so that an image is decoded twice."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        data = config.data
        self.images = dataset.train
        self.source = transforms.Compose(
            [
                *augmentations(data.source, data.source_size, self.images),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
                transforms.Lambda(_Noise(data.source_noise)),
            ]
        )
        self.target = transforms.Compose(
            [*augmentations(data.target, data.target_size, self.images), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.source(open_image(self.images, index)), self.target(open_image(self.images, index))


class _Noise:
    """Adds Gaussian noise of a given deviation."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation

    def __call__(self, view: Tensor) -> Tensor:
        return view + self.deviation * torch.randn_like(view)


def augmentations(view: ViewConfig, size: int, images: ImageSet) -> list[object]:
    """The reference's transforms of a Pillow image: random crop and flip, the right size, RandAugment."""
    crop = [
        transforms.RandomResizedCrop(size, view.crop_scale, view.crop_ratio),
        transforms.RandomHorizontalFlip(view.flip_probability),
    ]
    augment = [transforms.RandAugment(view.randaugment_num_ops, view.randaugment_magnitude)]
    # The reference's images have the size of its views; others must get it where nothing is cropped at random.
    fits = bool((images.heights == size).all() and (images.widths == size).all())
    return [
        transforms.RandomApply(crop, view.crop_flip_probability),
        *([] if fits else [transforms.Resize(size), transforms.CenterCrop(size)]),
        transforms.RandomApply(augment, view.randaugment_probability),
    ]


def open_image(images: ImageSet, index: int) -> Image.Image:
    """An image as the reference's data sets give it: decoded from its file, or made from its pixels."""
    if isinstance(images, FileImages):
        return Image.open(images.paths[index]).convert("RGB")
    return Image.fromarray(images.read(index))


class WorkerLoader:
    """Batches on the device, epoch after epoch.

    Args:
        one_worker: as published: one worker process, started anew in each epoch, and copies that the host waits for.
            Otherwise as many as there are cores, kept, and copies that it does not wait for.
        batch: images of a batch.
    """

    def __init__(self, config: Config, dataset: Dataset, batch: int, device: torch.device, one_worker: bool) -> None:
        self.workers = 1 if one_worker else whole_cores()
        self.queued_batches = AHEAD * self.workers
        self._device, self._waits = device, one_worker
        self._loader = DataLoader(
            SourceTargetImages(config, dataset),
            batch_size=batch,
            shuffle=True,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            persistent_workers=not one_worker,
            drop_last=True,  # the reference keeps the short last batch, which would blur a rate of equal steps
        )
        if not len(self._loader):
            raise ValueError(f"the data set holds fewer images than a batch of {batch}; give more, or a smaller batch")
        self._batches = self._endless()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Let the workers end."""
        self._batches.close()

    def _endless(self) -> Generator[Batch, None, None]:
        seen = 0
        while True:
            for views in self._loader:
                source, target = (view.to(self._device, non_blocking=not self._waits) for view in views)
                position = torch.arange(seen, seen + len(source), device=self._device)
                seen += len(source)
                yield Batch(source, target, position=position, index=position, label=position)
