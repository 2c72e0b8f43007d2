"""When a training writes snapshots of its power-function averages, and how all processes do it together."""

import errno
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.distributed.tensor import DTensor

from soda_fast.parallel import Processes
from soda_fast.training.average_files import Snapshot, remove_newer, write_snapshot
from soda_fast.training.metrics import Metrics
from soda_fast.training.power_average import PowerAverages


class AverageSnapshots:
    """The snapshots of one run. Every method is a collective; without averages, none does anything.

    A snapshot that cannot be written (a full disk, no memory for a copy) is a warning: what is made of the others is
    less exact.

    Args:
        folder: the run's `averages`.
        averages: of the training.
        metrics: warns.
    """

    def __init__(self, folder: Path, averages: PowerAverages, processes: Processes, metrics: Metrics) -> None:
        self._folder, self._averages, self._processes, self._metrics = folder, averages, processes, metrics

    def write(self, images_seen: int, steps: int) -> None:
        """Write a snapshot of each average, before the checkpoint of this step: a run resumed from that one does not
        come by here again."""
        for length, average in self._averages.by_length.items():
            whole = self._gather(average)
            snapshot = Snapshot(length=length, images_seen=images_seen, steps=steps)
            self._processes.on_main(partial(self._write, snapshot, whole))

    def resume(self, images_seen: int) -> None:
        """Forget what an earlier attempt has written of images that are about to be seen again."""
        if self._averages.by_length:
            self._processes.on_main(lambda: remove_newer(self._folder, images_seen))

    def _gather(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole average in the main process's host memory, one tensor after the other; empty on the others."""
        whole = {}
        for name, value in average.items():
            joined = value.full_tensor() if isinstance(value, DTensor) else value
            if self._processes.is_main:
                whole[name] = joined.cpu()
        return whole

    def _write(self, snapshot: Snapshot, whole: Mapping[str, Tensor]) -> None:
        with self._metrics.tolerating("a snapshot of the averages"):
            try:
                write_snapshot(self._folder, snapshot, whole)
            except MemoryError as error:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
