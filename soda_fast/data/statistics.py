"""Mean and deviation of a data set's channels."""

import torch
from torch import Tensor

from soda_fast.data.dataset import RGB


class Statistics:
    """Mean and deviation of the channels of values in [0, 1], on a device."""

    def __init__(self, mean: RGB, std: RGB, device: torch.device) -> None:
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (mean, std)
        )

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in [0, 1] -> the same with mean 0 and deviation 1."""
        return (images - self._mean).div_(self._std)

    def restore(self, images: Tensor) -> Tensor:
        """Normalised (N, 3, H, W) float32 -> as they were before."""
        return (images * self._std).add_(self._mean)
