"""What users take away: safetensors files that PyTorch and torchvision understand, and their configuration.

encoder.safetensors   torchvision's names and weight layout (out, in, kernel, kernel); fc gives z
model.safetensors     both networks in the same layout, names after encoder. and decoder.
config.json           versions, preprocessing, how torchvision's ResNet takes the encoder, the run's configuration, the
                      EMA length if one was asked for, both files' SHA-256; written last, so that an interrupted
                      export is none

The encoder's state loads strictly into torchvision.models.ARCH(num_classes=Z_DIM), with a 7x7 stem as it is. With a 3x3
stem that model needs conv1 = Conv2d(3, 64, 3, stride=1, padding=1, bias=False) and maxpool = Identity() before. The
`small` encoder is not one of torchvision's, nor is one that is told rays (`model.pose`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor, nn

from soda_fast import __version__
from soda_fast.config import Config, to_yaml
from soda_fast.files import sync_directory, write_atomically
from soda_fast.model import SODA
from soda_fast.reference_names import convolution_weights
from soda_fast.run_directory import RunDirectory

ENCODER_NAME, MODEL_NAME, CONFIG_NAME = "encoder.safetensors", "model.safetensors", "config.json"


def export(model: SODA, config: Config, directory: Path, ema_length: float | None = None) -> None:
    """Write the encoder, the whole model and their configuration into `directory`.

    ema_length: sigma_rel of the weights, which config.json then names; None: they are the average of `train.ema_beta`.

    Raises:
        ValueError: the folder cannot be made, or holds a run.
    """
    if RunDirectory(directory).config.exists():
        raise ValueError(f"{directory} is a run's directory; choose another folder to export to")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{directory} cannot be made ({error.strerror}); choose another folder") from error
    # Files of two exports must not pass for one, wherever this one is interrupted.
    (directory / CONFIG_NAME).unlink(missing_ok=True)
    sync_directory(directory)
    digests = {}
    for name, network in ((ENCODER_NAME, model.encoder), (MODEL_NAME, model)):
        data = save(to_exported(network))
        digests[name] = hashlib.sha256(data).hexdigest()
        write_atomically(directory / name, data)
    description = {
        "soda_fast": __version__,
        "preprocess": {
            "resize": config.data.source_size,
            "crop": "central square",
            "interpolation": "bilinear, antialias",
            "mean": config.data.mean,
            "std": config.data.std,
        },
        "torchvision": _torchvision(config),
        "config": yaml.safe_load(to_yaml(config)),
        "sha256": digests,
        **({} if ema_length is None else {"ema_length": ema_length}),
    }
    write_atomically(directory / CONFIG_NAME, json.dumps(description, indent=1).encode())


def _torchvision(config: Config) -> dict[str, Any] | None:
    """What to ask of torchvision for, and to change in it, so that it takes the encoder's state."""
    encoder = config.model.encoder
    if encoder.arch == "small" or config.model.pose != "none":
        return None
    changes = {"conv1": "Conv2d(3, 64, 3, stride=1, padding=1, bias=False)", "maxpool": "Identity()"}
    return {"model": encoder.arch, "num_classes": encoder.z_dim, "replace": changes if encoder.stem == "3x3" else {}}


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
