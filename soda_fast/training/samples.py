"""Image grids of a run: source, target, and the reconstruction from the source's z."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soda_fast import counter_rng
from soda_fast.build import build_schedule
from soda_fast.config import Config
from soda_fast.data import Batch, Dataset, TrainLoader
from soda_fast.diffusion import ddim_sample
from soda_fast.evaluation.reconstruction import image_grid, save_png
from soda_fast.model import SODA
from soda_fast.parallel import Processes, reshard


class Samples:
    """Always the run's first images and the same starting noise, so that grids of a run can be compared."""

    def __init__(self, config: Config, dataset: Dataset, processes: Processes) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self.alphabar = build_schedule(config).sampling_alphabar()
        self._batch: Batch | None = None

    def grid(self, model: SODA) -> np.ndarray:
        """(H, W, 3) uint8: a row of sources, of targets, of reconstructions. A collective."""
        batch = self._first_images()
        z = model.encode(batch.source)
        n, *image_shape = batch.target.shape
        position = torch.arange(n, device=batch.target.device)
        x_T = counter_rng.normal(self.config.run.seed, "samples", position, tuple(image_shape))
        sampling = self.config.sampling
        reconstructed = ddim_sample(model.denoise, self.alphabar, z, x_T, sampling.steps, sampling.guidance)
        reshard(model)
        return image_grid([self._visible(batch.source), batch.target, reconstructed])

    def save(self, path: Path, picture: np.ndarray) -> None:
        """Write a grid as PNG."""
        save_png(path, picture)

    def _visible(self, source: Tensor) -> Tensor:
        """The source view as the image that it was, its noise included."""
        mean, std = (
            torch.tensor(v, device=source.device)[:, None, None] for v in (self.dataset.mean, self.dataset.std)
        )
        return source * std + mean

    def _first_images(self) -> Batch:
        if self._batch is None:
            loader = TrainLoader(
                self.dataset.train,
                self.config.data,
                self.dataset.mean,
                self.dataset.std,
                seed=self.config.run.seed,
                global_batch=min(self.config.sampling.images, len(self.dataset.train)),
                rank=0,
                world=1,
                parts=1,
                start_position=0,
                device=self.processes.device,
            )
            self._batch = next(loader)
            loader.close()
        return self._batch
