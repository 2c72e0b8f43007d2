"""A training small enough to be run many times in a test: digits, one convolution block each way."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from soda_fast.checkpoint_reader import SafeReader, read_tensors
from soda_fast.config import Config, config_from_tree
from soda_fast.data import load_dataset
from soda_fast.parallel import Processes
from soda_fast.run_directory import RunDirectory
from soda_fast.train import resolve, train
from soda_fast.training.checkpoint_files import latest, read_manifest
from soda_fast.training.trainer import Trainer

BATCH = 12


def tiny_tree(run_dir: Path, steps: int, **train_keys: Any) -> dict[str, Any]:
    """A configuration as nested dicts; dropout, RandAugment and the moving average all at work."""
    view = {"crop_scale": [0.5, 1.0], "randaugment_probability": 0.5}
    return {
        "run": {"dir": str(run_dir), "seed": 3},
        "data": {"dataset": "digits", "source_size": 8, "target_size": 8, "source": view, "target": view},
        "model": {
            "encoder": {"arch": "small", "z_dim": 8, "widths": [8], "depths": [1]},
            "decoder": {"channels": 32, "multipliers": [1], "attention": [True], "blocks": 1, "dropout": 0.1},
        },
        "diffusion": {"steps": 100},
        "train": {
            "images": steps * BATCH,
            "global_batch_images": BATCH,
            "ema_beta": 0.5,
            "warmup_images": 5 * BATCH,
            "log_every_images": BATCH,
            **train_keys,
        },
        "parallel": {"unit_mib": 0},  # as large models have it: several units
        "sampling": {"images": 3, "steps": 2},
        # A step that is slow because the machine is busy would be profiled, which takes longer than the training.
        "profile": {"slow_factor": 0},
    }


def with_two_resolutions(tree: dict[str, Any]) -> dict[str, Any]:
    """The same with a second level in both networks, as the tests of layers need it: half as long again."""
    model = tree["model"]
    encoder = model["encoder"] | {"widths": [8, 16], "depths": [1, 1]}
    decoder = model["decoder"] | {"multipliers": [1, 1], "attention": [False, True]}
    return {**tree, "model": {**model, "encoder": encoder, "decoder": decoder}}


def run_tiny(tree: dict[str, Any]) -> list[dict[str, float]]:
    """Train, and return the lines of metrics.jsonl."""
    config: Config = config_from_tree(tree)
    train(config)
    return read_metrics(Path(config.run.dir))


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> dict[int, float]:
    """{images_seen: loss}."""
    return {int(line["images_seen"]): line["loss"] for line in read_metrics(run_dir) if "loss" in line}


def weights_hash(run_dir: Path) -> str:
    """SHA-256 over every tensor of the newest checkpoint: weights, their average, the optimizer's moments."""
    path, _ = latest(run_dir / "checkpoints")
    assert path is not None
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in SafeReader(path).read_metadata().state_dict_metadata.items()
    }
    read_tensors(path, "", tensors)
    digest = hashlib.sha256(json.dumps(read_manifest(path)["steps"]).encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def make_trainer(path: Path, processes: Processes, **train_keys: Any) -> Trainer:
    """A trainer of twelve steps unless train.images says otherwise, to be stepped by hand."""
    return trainer_of(tiny_tree(path, 12, **train_keys), processes)


def trainer_of(tree: dict[str, Any], processes: Processes) -> Trainer:
    """The trainer of a configuration, to be stepped by hand."""
    config = config_from_tree(tree)
    dataset = load_dataset(config.data)
    config = resolve(config, dataset)
    run = RunDirectory(Path(config.run.dir))
    run.make()
    return Trainer(config, dataset, processes, run)
