"""Any torch module from images to features, another run's encoder too, so that all are judged alike."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from soda_fast.checkpoint_reader import describe_failure
from soda_fast.data import Dataset
from soda_fast.data.statistics import Statistics
from soda_fast.encoding import Encode
from soda_fast.evaluation.report import Checkpoint
from soda_fast.export import CONFIG_NAME
from soda_fast.parallel import Processes
from soda_fast.pretrained import (
    Preprocess,
    is_exported,
    load,
    load_run,
    newest_checkpoint,
    preprocess,
    usual_average,
)
from soda_fast.run_directory import RunDirectory
from soda_fast.training.checkpoint_files import read_manifest

TORCHVISION, RUN = "torchvision", "run"
# What modules raise where an image is too small for their strides, or not of the one size that they are made for.
_WRONG_SIZE = (RuntimeError, AssertionError, ValueError, IndexError, TypeError)
# What torchvision's models call their classifier.
_HEADS = ("fc", "classifier", "head", "heads")


@dataclass(frozen=True)
class NamedEncoder:
    """A module as it was made, and what a report says of it."""

    module: nn.Module
    checkpoint: Checkpoint


def build_encoder(spec: str, weights: Path | None, dataset: Dataset, processes: Processes) -> NamedEncoder:
    """The module that `spec` names, its weights from a file or initial (seed 0). A collective.

    Args:
        spec: "torchvision:NAME", a classification model without its last layer; "run:DIR", the encoder of another run
            or an exported folder; or "MODULE:FUNCTION", where FUNCTION() returns a torch module from (B, 3, S, S) to
            (B, D).
        weights: a state dict, .safetensors or torch.save's; nothing in it is executed. Of a torchvision model the
            classifier's entries may be missing or of another size.
        dataset: whose mean and deviation the images have; another run's encoder gets them with its own.
        processes: whose main process chooses the checkpoint of another run for all.

    Raises:
        ValueError: spec or file are not usable.
    """
    source, colon, name = spec.partition(":")
    if not (source and colon and name):
        raise ValueError(
            f"--encoder {spec}: give torchvision:NAME, as torchvision:resnet18, run:DIR, or MODULE:FUNCTION"
        )
    if source == RUN:
        if weights is not None:
            raise ValueError(f"--encoder {spec}: a run has its own weights; leave --weights out")
        return _run_encoder(spec, Path(name), dataset, processes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = _torchvision_model(name) if source == TORCHVISION else _call(source, name, spec)
    if weights is not None:
        _load(module, _read(weights), weights, _HEADS if source == TORCHVISION else ())
    return NamedEncoder(module, Checkpoint(spec, 0, str(weights) if weights else "untrained"))


def _run_encoder(spec: str, path: Path, dataset: Dataset, processes: Processes) -> NamedEncoder:
    if is_exported(path):
        exported = load(path)
        length = json.loads((path / CONFIG_NAME).read_text()).get("ema_length")
        average = usual_average(exported.config) if length is None else f"EMA of relative length {length:g}"
        module = RunEncoder(exported.encoder, preprocess(exported.config), dataset)
        return NamedEncoder(module, Checkpoint(spec, 0, f"{average}, exported"))
    run = RunDirectory(path)
    run.load_config()
    checkpoint = processes.on_main(lambda: newest_checkpoint(run))
    model, config, _ = load_run(run, checkpoint=checkpoint)
    module = RunEncoder(model.encoder, preprocess(config), dataset)
    seen = read_manifest(checkpoint)["images_seen"]
    return NamedEncoder(module, Checkpoint(str(checkpoint), seen, usual_average(config)))


class RunEncoder(nn.Module):
    """A run's encoder for images that were prepared for another one: z (B, D) of (B, 3, S, S).

    The images are given the size, mean and deviation of those that the encoder was trained on.
    """

    def __init__(self, encoder: nn.Module, own: Preprocess, dataset: Dataset) -> None:
        super().__init__()
        self.encoder, self.size = encoder, own.size
        self._theirs, self._own = (dataset.mean, dataset.std), (own.mean, own.std)

    def forward(self, images: Tensor) -> Tensor:
        theirs, own = (Statistics(*values, images.device) for values in (self._theirs, self._own))
        unit = theirs.restore(images)
        if unit.shape[-1] != self.size:
            unit = F.interpolate(unit, size=(self.size, self.size), mode="bilinear", antialias=True)
        return self.encoder(own.normalise(unit))


def encode_module(module: nn.Module, spec: str) -> Encode:
    """Images (B, 3, S, S) -> {"output": (B, D)}; what follows the first two dimensions is averaged, as pooling does.

    Raises (when called):
        ValueError: the module does not take images of this size, or does not return such a tensor.
    """

    def encode(images: Tensor) -> dict[str, Tensor]:
        output = _output(module, images, spec)
        if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
            raise ValueError(f"--encoder {spec}: must return one tensor (B, D, ...), one row for each image")
        return {"output": output.flatten(2).mean(dim=2) if output.ndim > 2 else output}

    return encode


def _output(module: nn.Module, images: Tensor, spec: str) -> Any:
    try:
        return module(images)
    except torch.OutOfMemoryError:
        raise
    except _WRONG_SIZE as error:
        side = images.shape[-1]
        raise ValueError(
            f"--encoder {spec}: cannot take images of 3 x {side} x {side} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); give a data.source_size that it takes, many take 224, with a YAML "
            "file in place of the run"
        ) from error


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
        raise ValueError(f"--weights {path}: cannot be read as a state dict ({describe_failure(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"--weights {path}: is no state dict; save module.state_dict()")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], path: Path, heads: tuple[str, ...]) -> None:
    wanted = {name: value for name, value in state.items() if name.split(".")[0] not in heads}
    try:
        module.load_state_dict(wanted)
    except RuntimeError as error:
        raise ValueError(f"--weights {path}: {' '.join(str(error).split())[:300]}") from error
