"""Several targets of a source: views of their own, next to each other, from an image that is decoded once."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from soda_fast import counter_rng
from soda_fast.config.schema import DataConfig
from soda_fast.data import Batch, TrainLoader
from soda_fast.data.executor import Backend, make_executor
from soda_fast.data.image_set import ImageSet
from soda_fast.data.order import target_positions
from soda_fast.data.reference import execute
from soda_fast.data.views import clean_plan, plan
from tests.data.pictures import array_set, encode, file_set, needs_dali

DATA = DataConfig(dataset="digits", source_size=8, target_size=8)
BACKENDS = ["torchvision", "batched", pytest.param("dali", marks=needs_dali)]


def batches(count: int, targets: int, backend: Backend = "torchvision", threads: int = 0, **place: int) -> list[Batch]:
    """The first batches of a loader of 24 images in a global batch."""
    data = replace(DATA, backend=backend, targets_per_source=targets, threads=threads)
    place = {"seed": 3, "global_batch": 24, "rank": 0, "world": 1, "parts": 1, "start_position": 0} | place
    loader = TrainLoader(array_set("digits", 50), data, (0.5,) * 3, (0.2,) * 3, device=torch.device("cpu"), **place)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


def by_source(batch: Batch) -> torch.Tensor:
    """(N, K, 3, T, T)."""
    return batch.target.unflatten(0, (-1, batch.targets_per_source))


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_target_is_a_view_of_its_sources_image_by_a_plan_of_its_own(backend: Backend) -> None:
    """By hand, from Pillow's image to the finished tensors. DALI's resizing may differ by a grey level, or at borders
    (test_backends.py)."""
    images = array_set("digits", 50)
    batch = batches(2, 3, backend)[1]
    assert batch.source.shape == (24, 3, 8, 8)
    assert batch.target.shape == (72, 3, 8, 8)
    assert batch.target.is_contiguous()
    assert len(batch.position) == len(batch.index) == len(batch.label) == 24
    for number in range(3):
        places = target_positions(np.arange(24, 48), number)
        planned = plan(DATA.target, 3, "target", places, np.full(24, 8), np.full(24, 8))
        for row, index in enumerate(batch.index.tolist()):
            view = np.asarray(execute(Image.fromarray(images.pixels[index]), planned, row, 8)).transpose(2, 0, 1) / 255
            off = np.abs(by_source(batch)[row, number].numpy() - view)
            assert off.max() < 1e-5 or backend == "dali", (row, number)
            assert np.median(off) < 0.02, (row, number)


def test_targets_of_a_source_differ_and_so_do_their_noise_and_timesteps() -> None:
    (batch,) = batches(1, 3)
    places = batch.target_position
    assert len(set(places.tolist())) == 72
    assert torch.equal(places[::3], batch.position)
    views = by_source(batch).flatten(2)
    # A plan without crop and RandAugment is drawn now and then, twice for one source rarely.
    assert all((views[:, a] != views[:, b]).any(dim=1).float().mean() > 0.9 for a, b in ((0, 1), (0, 2), (1, 2)))
    steps = counter_rng.integers(3, "timestep", places, 1, 1001).unflatten(0, (24, 3))
    assert (steps[:, 0] != steps[:, 1]).float().mean() > 0.9
    noise = counter_rng.normal(3, "noise", places, (64,)).flatten()
    correlation = torch.corrcoef(noise.view(24, 3, 64).transpose(0, 1).flatten(1))
    assert correlation.fill_diagonal_(0).abs().max() < 4 / (24 * 64) ** 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_targets_are_the_first_of_more(backend: Backend) -> None:
    """And one is what a batch has always held."""
    (one,), (two,), (four,) = (batches(1, targets, backend) for targets in (1, 2, 4))
    assert torch.equal(one.source, two.source)
    assert torch.equal(one.source, four.source)
    assert torch.equal(one.target, by_source(four)[:, 0])
    assert torch.equal(by_source(two), by_source(four)[:, :2])
    assert one.target_position is one.position


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [2, 3])
def test_any_processes_parts_and_start_give_the_same_targets(backend: Backend, world: int) -> None:
    whole = batches(2, 2, backend)[1]
    for rank in range(world):
        shares = batches(2, 2, backend, rank=rank, world=world, parts=2, start_position=24)
        assert torch.equal(torch.cat([by_source(share) for share in shares]), by_source(whole)[rank::world])
        places = torch.cat([share.target_position for share in shares])
        assert torch.equal(places, whole.target_position.view(24, 2)[rank::world].flatten())


def test_threads_change_nothing() -> None:
    """With a number of rows that they cannot share evenly."""
    one, three = (batches(2, 3, "batched", threads=threads, global_batch=23) for threads in (1, 3))
    for left, right in zip(one, three, strict=True):
        assert torch.equal(left.target, right.target)


@pytest.mark.parametrize(
    ("backend", "method"),
    [("torchvision", "decode"), ("batched", "take"), pytest.param("dali", "read", marks=needs_dali)],
)
def test_an_image_is_taken_and_decoded_once_for_all_its_views(
    backend: Backend, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 16, 3), dtype=np.uint8)
    files = {f"{n:02}.png": encode(Image.fromarray(p), "PNG") for n, p in enumerate(pixels)}
    images = array_set("digits", 24) if backend == "batched" else file_set(tmp_path, files)
    taken: list[int] = []
    real = getattr(type(images), method)

    def counted(self: ImageSet, indices: int | NDArray[np.int64]) -> Any:
        taken.extend(np.atleast_1d(indices).tolist())
        return real(self, indices)

    monkeypatch.setattr(type(images), method, counted)
    make = make_executor(images, (8,) * 5, replace(DATA, backend=backend), torch.device("cpu"), 24)
    views = make(np.arange(24), [clean_plan(images.heights, images.widths)] * 5)
    make.close()
    assert sorted(taken) == list(range(24))
    assert len(views) == 5
