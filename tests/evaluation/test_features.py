"""Features of a data set from one and from several processes, each sample exactly once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from spawn import run_in_processes
from torch import Tensor

from soda_fast.evaluation.features import extract_features, own_count, padded_share
from soda_fast.evaluation.numerics import l2_normalize

NUM_SAMPLES = 23
BATCH = 4
IMAGES = torch.randn(NUM_SAMPLES, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def encode(images: Tensor) -> dict[str, Tensor]:
    return {"z": images.flatten(1)[:, :5].bfloat16(), "pixels": images.flatten(1)}


def share(rank: int, world: int, num_samples: int = NUM_SAMPLES) -> Iterator[tuple[Tensor, Any]]:
    for indices in padded_share(num_samples, rank, world, BATCH):
        yield IMAGES[indices], indices


@pytest.mark.parametrize("num_samples", [1, 2, 3, 8, 23, 24, 25])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_equal_in_size_and_cover_everything_once(num_samples: int, world: int) -> None:
    shares = [padded_share(num_samples, rank, world, BATCH) for rank in range(world)]
    sizes = [[len(indices) for indices in batches] for batches in shares]
    assert all(size == sizes[0] for size in sizes)
    assert all(0 < length <= BATCH for length in sizes[0])
    own = [np.concatenate(batches)[: own_count(num_samples, rank, world)] for rank, batches in enumerate(shares)]
    assert sorted(np.concatenate(own).tolist()) == list(range(num_samples))


@pytest.mark.parametrize("arguments", [(0, 0, 1, 4), (5, 0, 1, 0), (5, 2, 2, 4), (5, -1, 2, 4)])
def test_impossible_shares(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        padded_share(*arguments)


def test_one_process_without_a_process_group() -> None:
    features = extract_features(encode, share(0, 1), NUM_SAMPLES)
    assert torch.equal(features["pixels"], IMAGES.flatten(1))
    assert features["z"].dtype == torch.float32
    assert torch.equal(features["z"], IMAGES.flatten(1)[:, :5].bfloat16().float())


def test_any_order_and_no_gradients() -> None:
    weight = torch.ones(1, requires_grad=True)
    order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(1))
    batches = ((IMAGES[rows], rows) for rows in order.split(7))
    features = extract_features(lambda x: {"x": weight * x.flatten(1)}, batches, NUM_SAMPLES)
    assert torch.equal(features["x"], IMAGES.flatten(1))
    assert not features["x"].requires_grad


def test_missing_and_repeated_samples_are_named() -> None:
    wrong = torch.arange(NUM_SAMPLES)
    wrong[5], wrong[20] = 6, 6
    with pytest.raises(RuntimeError, match="23 samples are incomplete; 2 missing: 5, 20; 1 there more than once: 6"):
        extract_features(encode, [(IMAGES[wrong], wrong)], NUM_SAMPLES)
    with pytest.raises(RuntimeError, match=r"13 missing: 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, \.\.\."):
        extract_features(encode, [(IMAGES[:10], torch.arange(10))], NUM_SAMPLES)


def test_padding_is_dropped() -> None:
    indices = torch.cat((torch.arange(NUM_SAMPLES), torch.tensor([0, 0, 7])))
    images = IMAGES[indices]
    images[NUM_SAMPLES:] = torch.nan
    for batch in (26, 24, 20, 1):
        batches = zip(images.split(batch), indices.split(batch), strict=True)
        features = extract_features(encode, batches, NUM_SAMPLES)
        assert torch.equal(features["pixels"], IMAGES.flatten(1))


@pytest.mark.parametrize(
    ("some_encode", "batches", "error", "message"),
    [
        (encode, [], RuntimeError, "no batch"),
        (encode, [(IMAGES[:0], torch.arange(0))], ValueError, "no images"),
        (encode, [(IMAGES[:4], torch.arange(5))], ValueError, "4 images came with indices of the shape"),
        (encode, [(IMAGES[:2], torch.tensor([0, 23]))], ValueError, "from 0 to 23, outside 0..22"),
        (encode, [(IMAGES[:2], torch.tensor([-1, 2]))], ValueError, "from -1 to 2"),
        (lambda x: {"z": x}, [(IMAGES[:2], torch.arange(2))], ValueError, "'z' of 2 images have the shape"),
        (lambda x: {}, [(IMAGES[:2], torch.arange(2))], ValueError, "no features"),
        (
            lambda x: {"z": torch.zeros(len(x), len(x))},
            [(IMAGES[:3], torch.arange(3)), (IMAGES[:2], torch.arange(2))],
            ValueError,
            "widths {'z': 2}, batches before it had {'z': 3}",
        ),
    ],
)
def test_mistakes_are_named(
    some_encode: Callable[[Tensor], dict[str, Tensor]], batches: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        extract_features(some_encode, batches, NUM_SAMPLES)


def work() -> dict[str, Any]:
    """One process: a good extraction, one with fewer samples than processes, one with a sample missing."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    calls = []

    def counted(images: Tensor) -> dict[str, Tensor]:
        calls.append(len(images))
        return encode(images)

    features = extract_features(counted, share(rank, world), NUM_SAMPLES)
    kept = extract_features(encode, share(rank, world), NUM_SAMPLES, dtype=torch.bfloat16, normalize=True)
    few = extract_features(encode, share(rank, world, 2), 2)
    damaged = [(images, np.where(indices == 11, 12, indices)) for images, indices in share(rank, world)]
    message = ""
    try:
        extract_features(encode, damaged, NUM_SAMPLES)
    except RuntimeError as error:
        message = str(error)
    dist.destroy_process_group()
    return {"features": features, "kept": kept, "few": few, "calls": calls, "message": message}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_several_processes(world: int) -> None:
    results = run_in_processes(work, world)
    for result in results:
        assert torch.equal(result["features"]["pixels"], IMAGES.flatten(1))
        assert torch.equal(result["features"]["z"], IMAGES.flatten(1)[:, :5].bfloat16().float())
        assert torch.equal(result["kept"]["pixels"], l2_normalize(IMAGES.flatten(1)).bfloat16())
        assert torch.equal(result["few"]["pixels"], IMAGES[:2].flatten(1))
        assert result["calls"] == results[0]["calls"]
        assert "1 missing: 11; 1 there more than once: 12" in result["message"]
