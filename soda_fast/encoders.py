"""Encoders that are not a run's: any torch module from images to features, so that all are judged alike."""

import importlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from soda_fast.probing import Encode

TORCHVISION = "torchvision"
# What torchvision's models call their classifier.
_HEADS = ("fc", "classifier", "head", "heads")


def build_encoder(spec: str, weights: Path | None) -> nn.Module:
    """The module that `spec` names, in eval mode, its weights from a file or initial (seed 0).

    Args:
        spec: "torchvision:NAME", a classification model without its last layer; or "MODULE:FUNCTION", where
            FUNCTION() returns a torch module from (B, 3, S, S) to (B, D).
        weights: a state dict, .safetensors or torch.save's; nothing in it is executed. Of a torchvision model the
            classifier's entries may be missing or of another size.

    Raises:
        ValueError: spec or file are not usable.
    """
    source, colon, name = spec.partition(":")
    if not (source and colon and name):
        raise ValueError(f"--encoder {spec}: give torchvision:NAME, as torchvision:resnet18, or MODULE:FUNCTION")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _torchvision_model(name) if source == TORCHVISION else _call(source, name, spec)
    if weights is not None:
        _load(module, _read(weights), weights, _HEADS if source == TORCHVISION else ())
    return module.eval().requires_grad_(False)


def encode_module(module: nn.Module, spec: str) -> Encode:
    """Images (B, 3, S, S) -> {"output": (B, D)}; what follows the first two dimensions is averaged, as pooling does.

    Raises (when called):
        ValueError: the module does not return such a tensor.
    """

    def encode(images: Tensor) -> dict[str, Tensor]:
        output = module(images)
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
            raise ValueError(f"--encoder {spec}: must return one tensor (B, D, ...), one row for each image")
        return {"output": output.flatten(2).mean(dim=2) if output.ndim > 2 else output}

    return encode


def _torchvision_model(name: str) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"--encoder torchvision:{name}: is unknown; one of {', '.join(known)}")
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    for head in _HEADS:
        if hasattr(model, head):
            setattr(model, head, nn.Identity())
            return model
    raise ValueError(f"--encoder torchvision:{name}: its classifier has none of the names {', '.join(_HEADS)}")


def _call(module_name: str, function: str, spec: str) -> nn.Module:
    try:
        found: Any = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--encoder {spec}: {error}") from error
    module = found()
    if not isinstance(module, nn.Module):
        raise ValueError(f"--encoder {spec}: {function}() returned {type(module).__name__}, not a torch module")
    return module


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"--weights {path}: no such file")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        raise ValueError(f"--weights {path}: cannot be read as a state dict ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"--weights {path}: is no state dict; save module.state_dict()")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], path: Path, heads: tuple[str, ...]) -> None:
    wanted = {name: value for name, value in state.items() if name.split(".")[0] not in heads}
    try:
        module.load_state_dict(wanted)
    except RuntimeError as error:
        raise ValueError(f"--weights {path}: {' '.join(str(error).split())[:300]}") from error
