"""What the data path hands to training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from soda_fast.data.order import target_positions


@dataclass(frozen=True)
class Batch:
    """One process's rows of a global batch, on its device: N samples with K targets each (`data.targets_per_source`).

    Of pairs (`data.pairs`), index and label are the source's; the label is the target's too.

    source: (N, 3, S, S) float32, normalised, with noise. target: (N * K, 3, T, T) float32 in [0, 1]; the K targets of
    a source are next to each other. position: (N,) int64, the samples' places in the run (images seen before them).
    index: (N,) int64, their places in the data set. label: (N,) int64. source_camera, target_camera: (N, 3, 4) and
    (N * K, 3, 4) float32, of the views (soda_fast/model/rays.py), zeros where withheld; None where the data set has no
    poses.
    """

    source: Tensor
    target: Tensor
    position: Tensor
    index: Tensor
    label: Tensor
    source_camera: Tensor | None = None
    target_camera: Tensor | None = None

    @property
    def targets_per_source(self) -> int:
        """K."""
        return len(self.target) // len(self.source)

    @property
    def target_position(self) -> Tensor:
        """(N * K,) int64: where the targets draw their noise, see `target_positions`; of one target, `position`."""
        targets = self.targets_per_source
        if targets == 1:
            return self.position
        return torch.stack([target_positions(self.position, number) for number in range(targets)], dim=1).flatten()
