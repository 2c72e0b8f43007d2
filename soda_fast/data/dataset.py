"""What a data set is to the rest of the program."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_set import ImageSet
from soda_fast.data.poses import Poses

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """Images in two splits.

    name: as in data.dataset. test: None where there is no test split. class_names: by label.
    mean, std: of the channels of training images, of values in [0, 1]. train_poses, test_poses: where the camera stood;
    None where that is not known. note: what a user should know of how it was found.
    """

    name: str
    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]
    mean: RGB
    std: RGB
    train_poses: Poses | None = None
    test_poses: Poses | None = None
    note: str | None = None

    @property
    def train_cameras(self) -> NDArray[np.float64] | None:
        """(N, 3, 4) of the whole training images; None: not known. Raises ValueError for poses that do not fit."""
        return None if self.train_poses is None else self.train_poses.cameras

    @property
    def test_cameras(self) -> NDArray[np.float64] | None:
        """As `train_cameras`, of test images."""
        return None if self.test_poses is None else self.test_poses.cameras
