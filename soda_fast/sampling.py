"""Images from z as a configuration's `sampling` and `diffusion` sections ask for them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from soda_fast import counter_rng
from soda_fast.build import build_schedule
from soda_fast.config import Config, config_from_tree
from soda_fast.diffusion import ddim_sample, dpm_solver_sample
from soda_fast.diffusion.sampler import Denoise


def sample_images(
    denoise: Denoise,
    config: Config,
    z: Tensor,
    x_T: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """Images by the configured solver, steps and guidance.

    Args:
        denoise: of a model that the configuration describes.
        z: (N, D).
        x_T: (N, 3, T, T), standard normal, on z's device.
        rows: (N,) int64, the samples' numbers, which fresh noise is a function of; None: 0, 1, ...

    Returns:
        (N, 3, T, T) float32 images in [0, 1]; the little noise that ddim leaves can pass the ends.
    """
    schedule, sampling, prediction = build_schedule(config), config.sampling, config.diffusion.prediction
    common = (z, x_T, sampling.steps, sampling.guidance, prediction)
    if sampling.solver == "ddim":
        alphabar = schedule.sampling_alphabar()
        return ddim_sample(denoise, alphabar, *common, eta=sampling.eta, seed=config.run.seed, rows=rows)
    return dpm_solver_sample(denoise, schedule.training_alphabar(), *common)


def denoise_under(denoise: Callable[..., Tensor], rays: Tensor | None) -> Denoise:
    """SODA.denoise for images of known cameras, whose rays (N, C, T, T) belong to the N rows of z; None: not known.

    Guidance denoises several copies of these rows at once, one after the other.
    """

    def denoise_rows(x_t: Tensor, t: Tensor, z: Tensor, drop_mask: Tensor) -> Tensor:
        copies = None if rays is None else rays.repeat(len(x_t) // len(rays), 1, 1, 1)
        return denoise(x_t, t, z, drop_mask, rays=copies)

    return denoise_rows


def starting_noise(config: Config, rows: Tensor, seed: int | None = None) -> Tensor:
    """x_T (N, 3, T, T) float32, standard normal, a function of the seed and the samples' numbers `rows` (N,) int64.

    seed: None: the run's.
    """
    size = config.data.target_size
    return counter_rng.normal(config.run.seed if seed is None else seed, "samples", rows, (3, size, size))


def with_sampling(config: Config, keys: Mapping[str, Any], seed: int | None = None) -> Config:
    """The configuration with other values in its `sampling` section, and another run.seed where one is given.

    Raises:
        ConfigError: a value is out of range, or contradicts the model.
    """
    tree = asdict(config)
    run = tree["run"] if seed is None else {**tree["run"], "seed": seed}
    return config_from_tree({**tree, "run": run, "sampling": {**tree["sampling"], **keys}})
