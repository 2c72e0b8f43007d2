"""From a configuration to the networks and the noise schedule."""

import torch
from torch import nn

from soda_fast.config import Config, ConfigError
from soda_fast.diffusion import NoiseSchedule
from soda_fast.model import SODA, ResNetEncoder, UNet
from soda_fast.model.layers import GroupNorm
from soda_kernels import why_not_triton

_TIME_SCALE = {"reference": 1.0, "scaled": 1000.0}


def build_model(config: Config) -> SODA:
    """The networks with fresh weights, on the CPU, in float32; the weights follow from `run.seed` alone."""
    encoder, decoder = config.model.encoder, config.model.decoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = SODA(
            ResNetEncoder(encoder.arch, encoder.stem, encoder.z_dim, encoder.widths, encoder.depths),
            UNet(
                z_dim=encoder.z_dim,
                channels=decoder.channels,
                multipliers=decoder.multipliers,
                attention=decoder.attention,
                head_channels=decoder.head_channels,
                blocks=decoder.blocks,
                dropout=decoder.dropout,
                resample=decoder.resample,
            ),
            steps=config.diffusion.steps,
            time_scale=_TIME_SCALE[config.diffusion.time_embedding],
        )
    return model


def choose_kernels(model: nn.Module, backend: str, device: torch.device) -> None:
    """Let the model's normalisations run `perf.kernels`; as built, they run "auto".

    Raises:
        ConfigError: `device` cannot run it.
    """
    obstacle = why_not_triton(device) if backend == "triton" else None
    if obstacle:
        raise ConfigError(f"perf.kernels: triton is not available here: {obstacle}; use auto or pytorch")
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.backend = backend


def build_schedule(config: Config) -> NoiseSchedule:
    """The noise schedule."""
    diffusion = config.diffusion
    return NoiseSchedule(diffusion.schedule, diffusion.steps, diffusion.beta_start, diffusion.beta_end)
