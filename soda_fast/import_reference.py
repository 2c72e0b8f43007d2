"""`soda-fast import`: checkpoints of the public reference implementation (FutureXiang/soda) as run directories."""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from soda_fast.build import build_model
from soda_fast.checkpoint_reader import describe_failure
from soda_fast.config import Config, ConfigError, config_from_tree
from soda_fast.data.catalog import known_statistics
from soda_fast.parallel import parallelize, start_processes
from soda_fast.reference_names import state_from_reference
from soda_fast.run_directory import RunDirectory
from soda_fast.training.checkpoint import CheckpointStore
from soda_fast.training.checkpoint_files import checkpoint_path, checkpoints, remove_folder
from soda_fast.training.optimizer import build_optimizer
from soda_fast.training.state import Progress, TrainState

_DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny": "tiny_imagenet"}
_RESOLUTION = {"cifar10": 32, "cifar100": 32, "tiny_imagenet": 64}
# What torch.load and the unpickler raise at damaged bytes, old formats included.
_DAMAGED = (
    *(pickle.UnpicklingError, struct.error, EOFError, AssertionError, AttributeError, ImportError, LookupError),
    *(MemoryError, OverflowError, RuntimeError, TypeError, ValueError),
)
_ARCHITECTURES = ("resnet18", "resnet34", "resnet50")


def import_reference(checkpoint: Path, config_file: Path, run: RunDirectory) -> str:
    """Turn a reference checkpoint into a run directory that `load`, `evaluate` and `sample` accept.

    The averaged weights (EMA) become the run's; a checkpoint without them gives its online weights. The optimizer's
    state is not taken over.

    Args:
        checkpoint: the reference's .pth file, read with weights_only=True.
        config_file: the reference's YAML.
        run: where the run is made; must not exist as a run yet.

    Returns:
        A sentence that says what was imported.

    Raises:
        ValueError: unreadable files, settings that the reference does not have, missing, extra or misshaped keys, or an
            existing run.
    """
    interrupted = checkpoint_path(run.checkpoints, 0)
    if run.config.exists() or any(path != interrupted for path in checkpoints(run.checkpoints)):
        raise ValueError(f"{run.path} already holds a run; give another folder")
    config = reference_config(_read_yaml(config_file), str(config_file), run.path)
    state, averaged = model_state(_read_checkpoint(checkpoint), str(checkpoint))
    model = build_model(config)
    try:
        model.load_state_dict(state_from_reference(model, state, config.model.encoder.stem))
    except ValueError as error:
        raise ValueError(f"{checkpoint} with {config_file}: {error}") from None
    run.make()
    _write(config, model.state_dict(), run)
    # Last: it makes the folder a run, and an interrupted import can be repeated.
    run.write_config(config)
    weights = "the averaged (EMA) weights" if averaged else "the online weights (the checkpoint has no EMA)"
    return f"imported {weights} of {checkpoint} into {run.path}"


def reference_config(tree: Mapping[str, Any], name: str, run_path: Path) -> Config:
    """The reference's YAML in our keys.

    Learning rate and batch, which the reference gives per GPU, are written down for the four GPUs of its README.
    """
    encoder, decoder, diffusion = (_section(tree, key, name) for key in ("encoder", "decoder", "diffusion"))
    arch = encoder.get("arch", "resnet18")
    if arch not in _ARCHITECTURES:
        raise ValueError(f"{name}: encoder.arch is {arch!r}, expected one of {', '.join(_ARCHITECTURES)}")
    small = encoder.get("cifar_small_image", False)
    dataset, size = _dataset(tree, decoder, name)
    mean, std = known_statistics(dataset)
    per_gpu = int(_number(tree, "batch_size", 128, name))
    rate = 4 * _number(tree, "lrate", 1e-4, name)
    settings = {
        "run": {"dir": str(run_path)},
        "data": {"dataset": dataset, "source_size": size, "target_size": size, "mean": list(mean), "std": list(std)},
        "model": {
            "encoder": {"arch": arch, "stem": "3x3" if small else "7x7", "z_dim": encoder.get("feature_dim")},
            "decoder": {
                "channels": decoder.get("n_channels", 128),
                "multipliers": decoder.get("ch_mults", [1, 2, 2, 2]),
                "attention": decoder.get("is_attn", [False, True, False, False]),
                "head_channels": decoder.get("attn_channels_per_head"),
                "blocks": decoder.get("n_blocks", 2),
                "dropout": decoder.get("dropout", 0.1),
                "resample": "residual" if decoder.get("use_res_for_updown", False) else "conv",
            },
        },
        "diffusion": {
            **_schedule(diffusion, name),
            "steps": diffusion.get("n_T", 1000),
            "drop_probability": diffusion.get("drop_prob", 0.1),
        },
        "train": {
            "epochs": tree.get("n_epoch", 800),
            "global_batch_images": 4 * per_gpu,
            "decoder_lr": rate,
            "encoder_lr": rate * _number(tree, "lrate_ratio", 2, name),
            "warmup_epochs": tree.get("warm_epoch", 20),
            "ema_beta": _number(tree, "ema", 0.9999, name),
        },
        "sampling": {
            "solver": "ddim",
            # A decoder never trained without z cannot guide.
            "guidance": 0.3 if _number(diffusion, "drop_prob", 0.1, name) else 0.0,
            "steps": min(100, int(_number(diffusion, "n_T", 1000, name))),
        },
    }
    if encoder.get("feature_dim") != decoder.get("z_channels", 128):
        raise ValueError(
            f"{name}: encoder.feature_dim is {encoder.get('feature_dim')!r} but decoder.z_channels is "
            f"{decoder.get('z_channels', 128)!r}; they must be equal"
        )
    try:
        return config_from_tree(settings)
    except ConfigError as error:
        raise ValueError(f"{name}: in soda_fast's keys: {error}") from None


def model_state(checkpoint: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], bool]:
    """The weights to import, without prefixes, and whether they are averaged ones."""
    for part in ("EMA", "MODEL"):
        if part in checkpoint and not isinstance(checkpoint[part], Mapping):
            raise ValueError(f"{name}: {part} is a {type(checkpoint[part]).__name__}, expected a dict of tensors")
    if "EMA" in checkpoint:
        prefix = "ema_model."
        state = {str(k).removeprefix(prefix): v for k, v in checkpoint["EMA"].items() if str(k).startswith(prefix)}
        if not state:
            raise ValueError(f"{name}: its EMA has no keys ema_model.*; remove EMA from the file to import MODEL")
        averaged = True
    elif "MODEL" in checkpoint:
        state, averaged = dict(checkpoint["MODEL"]), False
    else:
        found = ", ".join(list(map(str, checkpoint))[:5])
        raise ValueError(f"{name}: expected a dict with MODEL and perhaps EMA, found {found or 'nothing'}")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: {key} is a {type(value).__name__}, expected a tensor")
    return state, averaged


def _write(config: Config, state: dict[str, Tensor], run: RunDirectory) -> None:
    """Save the weights as a checkpoint after 0 images: online and averaged alike, with a fresh optimizer."""
    with start_processes("cpu") as processes:
        models = [build_model(config) for _ in range(2)]
        for model in models:
            model.load_state_dict(state)
            parallelize(model, model.blocks, processes.mesh("fsdp"), bf16=False)
        optimizer = build_optimizer(models[0], config.train)
        # What an interrupted import has left is no run.
        remove_folder(checkpoint_path(run.checkpoints, 0))
        store = CheckpointStore(run.checkpoints, processes, {"config": asdict(config)}, keep=1)
        store.save_and_wait(Progress(images_seen=0, steps=0), TrainState(models[0], models[1], optimizer))
        store.close()


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected the reference's YAML, with encoder, decoder and diffusion")
    return tree


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGED as error:
        cause = describe_failure(error)
        raise ValueError(f"{path}: not a checkpoint of tensors that torch can read safely ({cause})") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: expected a dict with MODEL and perhaps EMA, found {type(checkpoint).__name__}")
    return checkpoint


def _section(tree: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    section = tree.get(key)
    if not isinstance(section, dict):
        raise ValueError(f"{name}: section {key} is missing; expected the reference implementation's YAML")
    return section


def _dataset(tree: Mapping[str, Any], decoder: Mapping[str, Any], name: str) -> tuple[str, int]:
    """The data set in our names, and the side of its images.

    Where a data set is named, its size counts: the reference reads only the channels of decoder.image_shape, and its
    Tiny-ImageNet configuration says 32 there. A YAML without a data set is taken for CIFAR-10's.
    """
    found = tree.get("dataset")
    if found is None:
        shape = decoder.get("image_shape", [3, 32, 32])
        if not isinstance(shape, list) or len(shape) != 3:
            raise ValueError(f"{name}: decoder.image_shape is {shape!r}, expected [3, height, width]")
        return "cifar10", shape[-1]
    if not isinstance(found, str) or found not in _DATASETS:
        raise ValueError(f"{name}: dataset is {found!r}, expected one of {', '.join(_DATASETS)}")
    return _DATASETS[found], _RESOLUTION[_DATASETS[found]]


def _schedule(diffusion: Mapping[str, Any], name: str) -> dict[str, Any]:
    betas = diffusion.get("betas", [1e-4, 0.02])
    if betas in ("cosine", "inverted"):
        return {"schedule": betas}
    if isinstance(betas, list) and len(betas) == 2:
        ends = dict(zip(("first", "last"), betas, strict=True))
        return {
            "schedule": "linear",
            "beta_start": _number(ends, "first", 0, f"{name}: diffusion.betas"),
            "beta_end": _number(ends, "last", 0, f"{name}: diffusion.betas"),
        }
    raise ValueError(f"{name}: diffusion.betas is {betas!r}, expected [first, last], cosine or inverted")


def _number(tree: Mapping[str, Any], key: str, default: float, name: str) -> float:
    """A number of the YAML; PyYAML reads 1e-4 as text."""
    value = tree.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = nan
    if not isfinite(number):
        raise ValueError(f"{name}: {key} is {value!r}, expected a number")
    return number
