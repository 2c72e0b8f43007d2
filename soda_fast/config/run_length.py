"""Lengths in images: of the run, of its warm-up, and of the weights' moving average."""

from math import ceil

from soda_fast.config.schema import Config

SNAPSHOTS_IN_A_RUN = 32
"""Of averages of 0.05 and 0.1: those from 0.035 to 0.2 can then be made with a profile that is right to 1 %."""
HORIZONS_IN_A_RUN = 10
"""A moving average that forgets the start ten times over is safely about the end of a run."""


def run_length_images(config: Config, num_train_images: int) -> int:
    """How far to train: `train.images` or `train.epochs`, rounded up to a whole number of optimisation steps."""
    if config.train.images is not None:
        wanted = config.train.images
    else:
        assert config.train.epochs is not None, "a loaded configuration has images or epochs"
        wanted = ceil(config.train.epochs * num_train_images)
    batch = config.train.global_batch_images
    return -(-wanted // batch) * batch


def warmup_images(config: Config, num_train_images: int) -> int:
    """Images over which the learning rates rise; 0 without warm-up. Not rounded: the rate is a function of images."""
    if config.train.warmup_images is not None:
        return config.train.warmup_images
    return round((config.train.warmup_epochs or 0) * num_train_images)


def snapshot_interval_images(config: Config, num_train_images: int) -> int:
    """Images between two snapshots of the averages of `train.ema_lengths`."""
    every = config.train.ema_snapshot_images
    return -(-run_length_images(config, num_train_images) // SNAPSHOTS_IN_A_RUN) if every == "auto" else every


def snapshots_bytes(config: Config, num_train_images: int, parameters: int) -> int:
    """Room that the snapshots of a run take by its end: float32, of each average at each moment."""
    # As the trainer counts: not more often than there are steps, and once at the end.
    every = max(snapshot_interval_images(config, num_train_images), config.train.global_batch_images)
    moments = -(-run_length_images(config, num_train_images) // every)
    return 4 * parameters * len(config.train.ema_lengths) * moments


def horizon_warning(config: Config, num_train_images: int) -> str | None:
    """A sentence if the moving average remembers the initial weights at the end of the run; None if all is well."""
    batch, beta = config.train.global_batch_images, config.train.ema_beta
    length = run_length_images(config, num_train_images)
    horizon = batch / (1 - beta)
    if horizon <= length:
        return None
    forgets = f"{min(1.0, HORIZONS_IN_A_RUN * batch / length):.1g}"
    return (
        f"train.ema_beta is {beta:g}: with train.global_batch_images {batch} its horizon is {horizon:,.0f} images, "
        f"longer than the run of {length:,} images, so that the averaged weights still remember the initial ones; "
        f"{round(1 - float(forgets), 12):g} would fit"
    )
