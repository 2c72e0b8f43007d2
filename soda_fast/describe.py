"""What a configuration amounts to: parameters, arithmetic, steps, memory. For `--dry-run` and the benchmarks."""

import torch
from torch import nn

from soda_fast.build import build_empty_model
from soda_fast.config import (
    Config,
    horizon_warning,
    run_length_images,
    snapshot_interval_images,
    snapshots_bytes,
    warmup_images,
)
from soda_fast.data.catalog import count_train_images
from soda_fast.flops import count_flops
from soda_fast.memory import predict_memory


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(config: Config) -> str:
    """A few lines: parameters, FLOPs, length of the run. No image is decoded."""
    model, cost = build_empty_model(config), count_flops(config)
    num_images = count_train_images(config.data)
    length, batch = run_length_images(config, num_images), config.train.global_batch_images
    targets = config.data.targets_per_source
    image = "image" if targets == 1 else f"image of {targets} targets"
    lines = [
        f"parameters   encoder {count_parameters(model.encoder):,}, decoder {count_parameters(model.decoder):,}",
        f"arithmetic   forward {_giga(cost.encoder_forward + cost.decoder_forward)} GFLOP per {image} "
        f"(encoder {_giga(cost.encoder_forward)}), forward and backward {_giga(cost.forward_backward)}",
        f"length       {length:,} images = {length // batch:,} steps of {batch} = {length / num_images:.1f} epochs "
        f"of {num_images:,} images",
        f"warm-up      {warmup_images(config, num_images):,} images",
    ]
    if config.train.ema_lengths:
        lines.append(_further_averages(config, num_images, count_parameters(model)))
    warning = horizon_warning(config, num_images)
    return "\n".join(lines + ([f"warning: {warning}"] if warning else []))


def _further_averages(config: Config, num_images: int, parameters: int) -> str:
    """A line: which there are, and the room that their snapshots take in a run from its beginning to its end."""
    lengths, every = config.train.ema_lengths, snapshot_interval_images(config, num_images)
    gib = snapshots_bytes(config, num_images, parameters) / 2**30
    return (
        f"averages     of relative lengths {', '.join(f'{length:g}' for length in lengths)}; a snapshot of each every "
        f"{every:,} images, {gib:.3g} GiB by the end"
    )


def describe_memory(
    config: Config, processes: int, machine_processes: int | None = None, gpu_memory_gib: float | None = None
) -> str:
    """A few lines: memory per GPU on that many processes, and whether a GPU has it.

    Args:
        processes, machine_processes: as in `predict_memory`.
        gpu_memory_gib: None: that of the GPU here, if there is one.

    Raises:
        ConfigError: `processes` do not fit the configuration.
    """
    plan = predict_memory(config, processes, machine_processes)
    memory_bytes = _memory_bytes(gpu_memory_gib)
    return "\n".join([*plan.lines(), *([f"  {plan.verdict(memory_bytes)}"] if memory_bytes else [])])


def _memory_bytes(gpu_memory_gib: float | None) -> int | None:
    if gpu_memory_gib is not None:
        return int(gpu_memory_gib * 2**30)
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _giga(flops: int) -> str:
    return f"{flops / 1e9:.3g}"
