"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels. They come with the package."""

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_set import ArrayImages

TEST_EVERY = 5  # of the images in order of class: 360 for testing, 1,437 for training
_LEVELS = 16  # grey levels are 0..16 in the original


def load_digits() -> tuple[ArrayImages, ArrayImages, tuple[str, ...]]:
    """Train, test and the classes' names. A level of 0..16 becomes round(level * 255 / 16) in all channels."""
    from sklearn.datasets import load_digits as load

    original = load()
    grey = np.round(original.images * (255 / _LEVELS)).astype(np.uint8)
    images = ArrayImages(np.repeat(grey[..., None], 3, axis=-1), original.target.astype(np.int64), "digits image")
    train, test = split(images.labels)
    return images.subset(train), images.subset(test), tuple(str(name) for name in original.target_names)


def split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of train and test: always the same ones, with every class in proportion to one image."""
    by_class = np.argsort(labels, kind="stable")
    in_test = np.arange(len(labels)) % TEST_EVERY == 0
    return np.sort(by_class[~in_test]), np.sort(by_class[in_test])
