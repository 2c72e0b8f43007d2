"""Cameras of views: those of whole images, cut out and mirrored as the views are."""

import numpy as np
import torch
from numpy.typing import NDArray

from soda_fast import counter_rng
from soda_fast.data.image_set import ImageSet
from soda_fast.data.views import ViewPlan


class ViewCameras:
    """The cameras that a training batch comes with.

    Args:
        cameras: (len(images), 3, 4), of the whole images.
        images: the training images.
        seed: of the run.
        drop: probability that a view's camera is withheld, which depends on seed, stream and position alone.
    """

    def __init__(self, cameras: NDArray[np.float64], images: ImageSet, seed: int, drop: float) -> None:
        self._cameras, self._images, self._seed, self._drop = cameras, images, seed, drop

    def __call__(
        self, stream: str, positions: NDArray[np.int64], indices: NDArray[np.int64], plan: ViewPlan
    ) -> NDArray[np.float32]:
        """(N, 3, 4), zeros where withheld.

        Args:
            stream: which view ("source", "target").
            positions: (N,) of the run.
            indices: (N,) of the images that the views show.
            plan: of these N views.
        """
        heights, widths = self._images.heights[indices], self._images.widths[indices]
        found = view_cameras(self._cameras[indices], plan, heights, widths)
        where = torch.from_numpy(np.ascontiguousarray(positions, np.int64))
        draws = counter_rng.uniform(self._seed, f"{stream}/camera", where, 1).numpy()
        return np.where(draws[:, :, None] < self._drop, 0.0, found).astype(np.float32)


def view_cameras(
    cameras: NDArray[np.float64], plan: ViewPlan, heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The cameras (N, 3, 4) of planned views from those of their whole images: cut out as the box, mirrored with it.

    heights, widths: (N,) of the whole images, in pixels.
    """
    across, down, corner, position = cameras.transpose(2, 0, 1)
    corner = corner + across * (plan.left / widths)[:, None] + down * (plan.top / heights)[:, None]
    across, down = across * (plan.width / widths)[:, None], down * (plan.height / heights)[:, None]
    mirrored = plan.flip[:, None]
    corner, across = np.where(mirrored, corner + across, corner), np.where(mirrored, -across, across)
    return np.stack((across, down, corner, position), axis=2)
