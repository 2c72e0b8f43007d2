"""Image grids of a run: source, target, and the reconstruction from the source's z."""

from dataclasses import replace

import numpy as np
import torch

from soda_fast.build import view_rays
from soda_fast.config import Config
from soda_fast.data import Batch, Dataset, TrainLoader
from soda_fast.data.statistics import Statistics
from soda_fast.model import SODA
from soda_fast.parallel import Processes, reshard
from soda_fast.sampling import denoise_under, sample_images, starting_noise
from soda_fast.synthesis.picture import Picture, Row, draw
from soda_fast.training.assembly import told_cameras


class Samples:
    """Always the run's first images and the same starting noise, so that grids of a run can be compared."""

    def __init__(self, config: Config, dataset: Dataset, processes: Processes) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self._batch: Batch | None = None

    def grid(self, model: SODA) -> np.ndarray:
        """(H, W, 3) uint8: a row of sources, of targets, of reconstructions. A collective.

        Every process makes all of it. Under FSDP each call of the model gathers its shards, so all must call it equally
        often, and a row's last digits can depend on its batch: shares would differ with the number of processes.
        """
        batch = self._first_images()
        data = self.config.data
        z = model.encode(batch.source, view_rays(self.config, batch.source_camera, data.source_size))
        x_T = starting_noise(self.config, torch.arange(len(z), device=z.device))
        rays = view_rays(self.config, batch.target_camera, data.target_size)
        reconstructed = sample_images(denoise_under(model.denoise, rays), self.config, z, x_T)
        reshard(model)
        rows = {
            # As the images that they were, their noise included.
            "source": Statistics(self.dataset.mean, self.dataset.std, batch.source.device).restore(batch.source),
            "target": batch.target,
            "made from\nthe source's z": reconstructed,
        }
        return draw(Picture([Row(caption, images) for caption, images in rows.items()]))

    def _first_images(self) -> Batch:
        if self._batch is None:
            loader = TrainLoader(
                self.dataset.train,
                # One target in each column; it is the first one of training.
                replace(self.config.data, targets_per_source=1),
                self.dataset.mean,
                self.dataset.std,
                seed=self.config.run.seed,
                global_batch=min(self.config.sampling.images, len(self.dataset.train)),
                rank=0,
                world=1,
                parts=1,
                start_position=0,
                device=self.processes.device,
                cameras=told_cameras(self.config, self.dataset),
                many_calls=False,
            )
            self._batch = next(loader)
            loader.close()
        return self._batch
