"""What users take away: safetensors files that PyTorch and torchvision understand, and their configuration.

encoder.safetensors   torchvision's names and weight layout (out, in, kernel, kernel); fc gives z
decoder.safetensors   the same layout
config.json           versions, preprocessing, the run's configuration
"""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from safetensors.torch import save
from torch import Tensor, nn

from soda_fast import __version__
from soda_fast.config import Config, to_yaml
from soda_fast.files import write_atomically
from soda_fast.model import SODA
from soda_fast.reference_names import convolution_weights

ENCODER_NAME, DECODER_NAME, CONFIG_NAME = "encoder.safetensors", "decoder.safetensors", "config.json"


def export(model: SODA, config: Config, directory: Path) -> None:
    """Write both networks and their configuration into `directory`.

    Raises:
        ValueError: the folder cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{directory} cannot be made ({error.strerror}); choose another folder") from error
    write_atomically(directory / ENCODER_NAME, save(to_exported(model.encoder)))
    write_atomically(directory / DECODER_NAME, save(to_exported(model.decoder)))
    description = {
        "soda_fast": __version__,
        "preprocess": {
            "resize": config.data.source_size,
            "crop": "central square",
            "interpolation": "bilinear, antialias",
            "mean": config.data.mean,
            "std": config.data.std,
        },
        "config": yaml.safe_load(to_yaml(config)),
    }
    write_atomically(directory / CONFIG_NAME, json.dumps(description, indent=1).encode())


def to_exported(network: nn.Module) -> dict[str, Tensor]:
    """A network's state with convolution weights as (out, in, kernel, kernel)."""
    convolutions = convolution_weights(network)
    return {
        name: (value.permute(0, 3, 1, 2) if name in convolutions else value).detach().contiguous()
        for name, value in network.state_dict().items()
    }


def from_exported(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_exported`."""
    convolutions = convolution_weights(network)
    return {
        name: value.permute(0, 2, 3, 1).contiguous() if name in convolutions else value for name, value in state.items()
    }
