"""A run's model, spread over its processes, the loader of its batches, and what tells its images from others."""

import numpy as np
from numpy.typing import NDArray

from soda_fast.build import build_empty_model, choose_kernels, require_cameras
from soda_fast.config import Config, resolve_perf
from soda_fast.data import Batch, Dataset, TrainLoader
from soda_fast.data.fingerprint import listing_fingerprint
from soda_fast.model import SODA
from soda_fast.parallel import Processes, parallelize


def spread_model(config: Config, processes: Processes, compiled: bool) -> SODA:
    """The model on all processes, its memory not yet filled: no process ever holds the whole."""
    model = build_empty_model(config)
    choose_kernels(model, config.perf.kernels, processes.device)
    reshard = config.parallel.reshard_after_forward
    parallelize(
        model,
        model.blocks,
        processes.mesh(config.parallel.strategy, config.parallel.shard_processes),
        bf16=resolve_perf(config.perf, processes.device.type == "cuda").precision == "bf16",
        compiled=model.compiled_methods if compiled else (),
        compile_mode=config.perf.compile_mode,
        reshard_after_forward=None if reshard == "auto" else reshard,
        entry_methods=("encode", "features", "denoise"),
        # Not the encoder's: its BatchNorm would count every batch twice.
        recomputed=model.decoder.blocks if config.perf.activation_checkpointing else (),
        unit_bytes=unit_bytes(config, processes.world_size),
    )
    return model.to_empty(device=processes.device)


def unit_bytes(config: Config, processes: int) -> int:
    """The least bytes of parameters that are sharded together, of a run on so many processes."""
    unit = config.parallel.unit_mib
    if unit == "auto":
        unit = 16 if processes > 1 else 1024
    return unit << 20


def open_loader(
    config: Config, dataset: Dataset, processes: Processes, start_position: int, *, many_calls: bool = True
) -> TrainLoader:
    """This process's share of the global batches after `start_position` images, in accumulation parts.

    many_calls: False for a few batches, which come from host memory.
    """
    return TrainLoader(
        dataset.train,
        config.data,
        dataset.mean,
        dataset.std,
        seed=config.run.seed,
        global_batch=config.train.global_batch_images,
        rank=processes.rank,
        world=processes.world_size,
        parts=config.train.accumulate,
        start_position=start_position,
        device=processes.device,
        cameras=told_cameras(config, dataset),
        many_calls=many_calls,
    )


def global_batch(config: Config, dataset: Dataset, processes: Processes, images_seen: int) -> list[Batch]:
    """This process's share of the global batch that follows `images_seen`, in its accumulation parts."""
    loader = open_loader(config, dataset, processes, images_seen, many_calls=False)
    try:
        return [next(loader) for _ in range(config.train.accumulate)]
    finally:
        loader.close()


def told_cameras(config: Config, dataset: Dataset) -> NDArray[np.float64] | None:
    """(N, 3, 4) of the training images; None under model.pose none, which poses.csv does not concern.

    Raises:
        ValueError: model.pose is rays, and the poses are missing or do not fit.
    """
    return None if config.model.pose == "none" else require_cameras(config, dataset.train_cameras)


def fingerprint_of(config: Config, dataset: Dataset) -> str:
    """Of the training images, and under model.pose rays of their poses: what a resumed run must find again."""
    told = dataset.train_poses if config.model.pose != "none" else None
    return listing_fingerprint(dataset.train, None if told is None else told.numbers)
