"""From a configuration to the networks and the noise schedule."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from soda_fast.config import Config, ConfigError, modulation_of
from soda_fast.diffusion import NoiseSchedule
from soda_fast.model import SODA, ResNetEncoder, UNet, ray_channels, ray_features
from soda_fast.model.initialisation import truncated_normal_, xavier_
from soda_fast.model.layers import GroupNorm
from soda_fast.parallel import copy_shards
from soda_kernels import why_not_triton

T = TypeVar("T")
_TIME_SCALE = {"reference": 1.0, "scaled": 1000.0}


def build_model(config: Config) -> SODA:
    """The networks with fresh weights, on the CPU, in float32; the weights follow from `run.seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = _networks(config)
    if config.model.initialisation == "paper":
        truncated_normal_(model.decoder, config.run.seed, "")
    return model


def build_empty_model(config: Config) -> SODA:
    """The networks on `meta`: shapes without memory. To be spread over processes, then given memory and weights."""
    with torch.device("meta"):
        return _networks(config)


def initialise(model: SODA, config: Config) -> None:
    """Give a model that is spread over processes the weights of `build_model`, without communication.

    Every process draws all numbers and keeps its shards. Beside these it holds the whole encoder (on the CPU; at most
    ResNet-50's 25 million weights), then one layer of the decoder at a time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        # Not layer by layer: torchvision draws a ResNet's weights when it is built, and again when all of it stands.
        copy_shards(model.encoder, _encoder(config))
        with torch.device("meta"):
            layers = _decoder(config)
        for name, layer in layers.named_modules():
            shapes = dict(layer.named_parameters(recurse=False))
            if shapes:
                for parameter, shape in shapes.items():
                    setattr(layer, parameter, nn.Parameter(torch.empty_like(shape, device="cpu")))
                layer.reset_parameters()
                if config.model.initialisation == "paper":
                    truncated_normal_(layer, config.run.seed, name)
                copy_shards(model.decoder.get_submodule(name), layer)
                for parameter, shape in shapes.items():
                    setattr(layer, parameter, shape)


def _networks(config: Config) -> SODA:
    time_scale = _TIME_SCALE[config.diffusion.time_embedding]
    return SODA(_encoder(config), _decoder(config), steps=config.diffusion.steps, time_scale=time_scale)


def _encoder(config: Config) -> ResNetEncoder:
    keys = config.model.encoder
    encoder = ResNetEncoder(keys.arch, keys.stem, keys.z_dim, keys.widths, keys.depths, _ray_channels(config))
    if config.model.initialisation == "paper" and not encoder.fc.weight.is_meta:
        xavier_(encoder, config.run.seed, "encoder")
    return encoder


def _decoder(config: Config) -> UNet:
    decoder = config.model.decoder
    return UNet(
        z_dim=config.model.encoder.z_dim,
        channels=decoder.channels,
        multipliers=decoder.multipliers,
        attention=decoder.attention,
        head_channels=decoder.head_channels,
        blocks=decoder.blocks,
        dropout=decoder.dropout,
        resample=decoder.resample,
        modulation=modulation_of(config.model),
        rescale=decoder.rescale,
        ray_channels=_ray_channels(config),
    )


def _ray_channels(config: Config) -> int:
    return 0 if config.model.pose == "none" else ray_channels(config.model.ray_frequencies)


def view_rays(config: Config, camera: Tensor | None, size: int) -> Tensor | None:
    """What the networks are told of a view's camera (N, 3, 4): (N, C, size, size); None under model.pose none.

    Raises:
        ValueError: model.pose is rays, and there are no cameras.
    """
    if config.model.pose == "none":
        return None
    return ray_features(require_cameras(config, camera), size, config.model.ray_frequencies)


def require_cameras(config: Config, cameras: T | None) -> T:
    """The cameras. Raises ValueError if there are none."""
    if cameras is None:
        raise ConfigError(
            f"model.pose is rays, but data.root {config.data.root} has no poses.csv for data.dataset "
            f"{config.data.dataset}; add it (its form: soda_fast/data/poses.py), or set model.pose=none"
        )
    return cameras


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
