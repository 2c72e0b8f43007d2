"""Batches of noise on the device: what a training step works on when its loader is not to count."""

import torch

from soda_fast.config import Config
from soda_fast.data import Batch

EPOCH_IMAGES = 1000
"""Where no data set is read: what a warm-up in epochs is counted in."""


def synthetic_parts(config: Config, device: torch.device, world_size: int = 1) -> list[Batch]:
    """One process's share of a global batch, in accumulation parts."""
    accumulate = config.train.accumulate
    n = config.train.global_batch_images // (accumulate * world_size)
    targets = n * config.data.targets_per_source
    generator = torch.Generator(device).manual_seed(0)

    def part(number: int) -> Batch:
        position = torch.arange(n, device=device) + number * n
        source = torch.randn(n, 3, config.data.source_size, config.data.source_size, generator=generator, device=device)
        size = config.data.target_size
        target = torch.rand(targets, 3, size, size, generator=generator, device=device)
        if device.type == "cuda":  # as the loader's
            source, target = (x.contiguous(memory_format=torch.channels_last) for x in (source, target))
        if config.model.pose == "none":
            return Batch(source, target, position, position, position)
        cameras = torch.randn(n + targets, 3, 4, generator=generator, device=device).split([n, targets])
        return Batch(source, target, position, position, position, *cameras)

    return [part(number) for number in range(accumulate)]
