"""Which images a ladder runs on: the configuration's, or random ones where those are not at hand."""

import numpy as np

from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.data.catalog import known_statistics
from soda_fast.data.image_set import ArrayImages

_GREY = (0.5, 0.5, 0.5)


def find_images(config: Config, synthetic: int) -> tuple[Dataset, str]:
    """A data set, and what it is in words. synthetic: that many random images instead of the configuration's.

    Raises:
        ValueError: the configuration's images are not there; names the remedy.
    """
    if synthetic:
        return synthetic_images(config, synthetic)
    try:
        dataset = load_dataset(config.data)
    except ValueError as error:
        raise ValueError(f"{error}; or measure on random images with --synthetic-images 50000") from error
    return dataset, f"{len(dataset.train):,} images of {dataset.name}"


def synthetic_images(config: Config, count: int) -> tuple[Dataset, str]:
    """Random pixels of the target's size in memory, as CIFAR's are: nothing to read, nothing to decode."""
    size = config.data.target_size
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, size, size, 3), np.uint8)
    images = ArrayImages(pixels, random.integers(0, 10, count), "synthetic image")
    try:
        mean, std = known_statistics(config.data.dataset)
    except ValueError:  # a folder's own are not known, and random pixels have others anyway
        mean, std = _GREY, _GREY
    mean, std = config.data.mean or mean, config.data.std or std
    dataset = Dataset("synthetic", images, None, tuple(str(label) for label in range(10)), mean, std)
    return dataset, f"SYNTHETIC: {count:,} random images of {size}x{size} in memory, nothing decoded"
