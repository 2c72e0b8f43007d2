"""What a data set is to the rest of the program."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_set import ImageSet

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """Images in two splits.

    name: as in data.dataset. test: None where there is no test split. class_names: by label.
    mean, std: of the channels of training images, of values in [0, 1]. train_cameras, test_cameras: (N, 3, 4) float64,
    of the whole images (poses.py); None where they are not known. note: what a user should know of how it was found.
    """

    name: str
    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]
    mean: RGB
    std: RGB
    train_cameras: NDArray[np.float64] | None = None
    test_cameras: NDArray[np.float64] | None = None
    note: str | None = None
