"""What the data path hands to training."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One process's rows of a global batch, on its device.

    Of pairs (`data.pairs`), index and label are the source's; the label is the target's too.

    source: (N, 3, S, S) float32, normalised, with noise. target: (N, 3, T, T) float32 in [0, 1].
    position: (N,) int64, the samples' places in the run (images seen before them). index: (N,) int64, their places in
    the data set. label: (N,) int64. source_camera, target_camera: (N, 3, 4) float32, of the views
    (soda_fast/model/rays.py), zeros where withheld; None where the data set has no poses.
    """

    source: Tensor
    target: Tensor
    position: Tensor
    index: Tensor
    label: Tensor
    source_camera: Tensor | None = None
    target_camera: Tensor | None = None
