"""Raw pixels of real images land where others found them, and protocols give the same on 1, 2 and 3 processes."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from spawn import run_in_processes
from torch import Tensor

from soda_fast.evaluation import CachedFeatures, extract_features, knn_accuracy, padded_share, run_protocols
from soda_fast.evaluation.logistic import fit_logistic, logistic_accuracies

PIXELS, LABELS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
PIXELS = (PIXELS / 16).float()
TRAIN = 1617  # nine tenths, as in scikit-learn's example


def test_digits_as_in_scikit_learns_example() -> None:
    """ "Digits Classification Exercise" of its gallery: k-NN (5, Euclidean) 96.1 %, logistic regression 93.3 %."""
    sets = (PIXELS[:TRAIN], LABELS[:TRAIN], PIXELS[TRAIN:], LABELS[TRAIN:])
    assert knn_accuracy(*sets, (5,), None)[5] == pytest.approx(0.961, abs=0.02)
    weights = fit_logistic(PIXELS[:TRAIN], LABELS[:TRAIN], 10, [1.0])
    assert logistic_accuracies(weights, *sets[2:]).item() == pytest.approx(0.933, abs=0.01)


def extracted(start: int, stop: int, rank: int, world: int) -> dict[str, Tensor]:
    shares = padded_share(stop - start, rank, world, 64)
    return extract_features(
        lambda x: {"pixels": x}, [(PIXELS[start:stop][indices], indices) for indices in shares], stop - start
    )


def work() -> list[dict[str, Any]]:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    train, test = extracted(0, 400, rank, world), extracted(400, 601, rank, world)
    provider = CachedFeatures(
        encode_clean=lambda split: train if split == "train" else test,
        encode_augmented=lambda view, epoch: train,
        split_labels={"train": LABELS[:400], "test": LABELS[400:601]},
        descriptions={"reference": "none", "standard": "none"},
    )
    names = ("knn-dino", "knn-lightly", "knn-reference", "linear-reference", "linear-mae")
    results = [vars(result) for result in run_protocols(names, provider, 10, (0, 1))]
    dist.destroy_process_group()
    return results


def test_one_two_and_three_processes_give_the_same() -> None:
    found = [results for world in (1, 2, 3) for results in run_in_processes(work, world)]
    assert len(found) == 6
    assert all(results == found[0] for results in found)
