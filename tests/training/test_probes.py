"""Probes in training keep away from the test split, and say at the start what cannot be done."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training.tiny import tiny_tree

from soda_fast.build import build_model
from soda_fast.config import Config, config_from_tree
from soda_fast.data import load_dataset
from soda_fast.parallel import start_processes
from soda_fast.training.probes import Probes


def config_with(during: object) -> Config:
    return config_from_tree({**tiny_tree(Path("unused"), 1), "evaluation": {"during": during}})


def test_fit_and_held_out_share_train_between_them() -> None:
    config = config_with({"knn": 100})
    dataset = load_dataset(config.data)
    with start_processes("cpu") as processes:
        probes = Probes(config, replace(dataset, test=None), processes, print)
        accuracies = probes.run("knn", build_model(config).eval())
    assert accuracies.keys() == {"knn-dino/z", "knn-dino/pooled"}
    assert all(0.3 < value <= 1 for value in accuracies.values())
    assert len(probes._fit) + len(probes._held_out) == len(dataset.train)


def test_any_protocol_can_be_named() -> None:
    config = config_with({"knn-lightly": 100, "linear-logistic": 200})
    dataset = load_dataset(config.data)
    with start_processes("cpu") as processes:
        probes = Probes(config, replace(dataset, test=None), processes, print)
        assert probes.schedule == {"knn-lightly": 100, "linear-logistic": 200}
        accuracies = probes.run("knn-lightly", build_model(config).eval())
    assert accuracies.keys() == {"knn-lightly/z", "knn-lightly/pooled"}


def test_too_few_images_are_told_at_the_start() -> None:
    config = config_with({"knn": 100})
    dataset = load_dataset(config.data)
    chosen = np.concatenate([np.flatnonzero(dataset.train.labels == label)[:3] for label in (0, 1)])
    few = replace(dataset, train=dataset.train.subset(chosen))
    with start_processes("cpu") as processes, pytest.raises(ValueError, match=r"evaluation\.during"):
        Probes(config, few, processes, print)
