"""Batches: right numbers, whoever draws them and from wherever; errors and ends that do not hang."""

import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast import counter_rng
from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig, ProbeViewConfig
from soda_fast.data import Batch, TrainLoader, iterate_views
from soda_fast.data.executor import dali_is_installed
from soda_fast.data.image_set import ImageSet
from soda_fast.data.operations import _scale
from soda_fast.data.order import sample_indices
from soda_fast.data.prefetch import Prefetcher
from soda_fast.data.reference import execute
from soda_fast.data.views import plan
from tests.data.pictures import array_set, encode, file_set

CPU = torch.device("cpu")
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
DATA = DataConfig(dataset="digits", source_size=8, target_size=8)
BACKENDS = ["torchvision", "batched"] + ["dali"] * (dali_is_installed())


def batches(count: int, data: DataConfig = DATA, images: ImageSet | None = None, **changes: int) -> list[Batch]:
    """The first batches of a loader of 24 images in a global batch."""
    place = {"seed": 3, "global_batch": 24, "rank": 0, "world": 1, "parts": 1, "start_position": 0} | changes
    loader = TrainLoader(array_set("digits", 50) if images is None else images, data, MEAN, STD, device=CPU, **place)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


def assert_equal(left: Batch, right: Batch, rows: slice = slice(None)) -> None:
    for field in fields(Batch):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if one is None:
            assert other is None, field.name
        else:
            assert torch.equal(one, other[rows]), field.name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_what_it_says(backend: str) -> None:
    images, data = array_set("digits", 50), replace(DATA, backend=backend)
    batch = batches(3, data)[2]
    assert batch.source.dtype == batch.target.dtype == torch.float32
    assert batch.source.shape == batch.target.shape == (24, 3, 8, 8)
    assert batch.source.is_contiguous()
    assert batch.target.is_contiguous()
    assert batch.position.tolist() == list(range(48, 72))
    np.testing.assert_array_equal(batch.index, sample_indices(3, np.arange(48, 72), 50))
    np.testing.assert_array_equal(batch.label, images.labels[batch.index])
    assert batch.target.min() >= 0
    assert batch.target.max() <= 1


def test_views_are_normalised_and_noisy_as_the_plan_says() -> None:
    """By hand, from Pillow's image to the finished tensors."""
    images, data = array_set("digits", 50), replace(DATA, backend="torchvision", source_noise=0.25)
    (batch,) = batches(1, data)
    positions = np.arange(24)
    noise = counter_rng.normal(3, "source/noise", batch.position, (3, 8, 8)).numpy()
    for stream, views in (("source", batch.source), ("target", batch.target)):
        planned = plan(ViewConfig(), 3, stream, positions, np.full(24, 8), np.full(24, 8))
        for row, index in enumerate(batch.index.tolist()):
            unit = np.asarray(execute(Image.fromarray(images.pixels[index]), planned, row, 8)).transpose(2, 0, 1) / 255
            if stream == "source":
                unit = (unit - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1)) + 0.25 * noise[row]
            np.testing.assert_allclose(views[row], unit, atol=1e-5)


def test_noise_can_be_switched_off() -> None:
    (noisy,), (clean,) = batches(1), batches(1, replace(DATA, source_noise=0.0))
    off = (noisy.source - clean.source).flatten()
    assert abs(off.std().item() - 0.1) < 0.005
    assert torch.equal(noisy.target, clean.target)


@pytest.mark.parametrize("backend", BACKENDS)
def test_starting_at_a_position_is_going_on_from_there(backend: str) -> None:
    data = replace(DATA, backend=backend)
    for late, early in zip(batches(3, data, start_position=72), batches(6, data)[3:], strict=True):
        assert_equal(late, early)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_processes_share_the_global_batch_that_one_would_make(backend: str, world: int) -> None:
    data = replace(DATA, backend=backend)
    whole = batches(2, data)
    for rank in range(world):
        for share, batch in zip(batches(2, data, rank=rank, world=world), whole, strict=True):
            assert_equal(share, batch, slice(rank, None, world))


def test_parts_are_consecutive_pieces_of_a_process_share() -> None:
    whole = batches(2, world=2, rank=1)
    parts = batches(6, world=2, rank=1, parts=3)
    for step in range(2):
        for part in range(3):
            assert_equal(parts[3 * step + part], whole[step], slice(4 * part, 4 * part + 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_and_prefetching_change_nothing(backend: str) -> None:
    one = batches(4, replace(DATA, backend=backend, threads=1, prefetch_batches=1))
    three = batches(4, replace(DATA, backend=backend, threads=3, prefetch_batches=5))
    for left, right in zip(one, three, strict=True):
        assert_equal(left, right)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_of_the_two_views_may_differ(backend: str) -> None:
    (batch,) = batches(1, replace(DATA, backend=backend, source_size=12, target_size=5))
    assert batch.source.shape == (24, 3, 12, 12)
    assert batch.target.shape == (24, 3, 5, 5)


def test_a_split_without_images_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="the training split holds no images"):
        batches(1, images=array_set("digits", 50).subset(np.array([], np.int64)))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "batched"])
def test_an_image_that_breaks_in_training_stops_it_by_name(backend: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    content = encode(Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)), "JPEG")
    images = file_set(tmp_path, {f"{number:02}.jpg": content for number in range(48)})
    culprit = int(sample_indices(3, np.arange(40, 41), 48)[0])
    images.paths[culprit].write_bytes(content[:200])
    loader = TrainLoader(
        images, replace(DATA, backend=backend), MEAN, STD,
        seed=3, global_batch=24, rank=0, world=1, parts=1, start_position=0, device=CPU,
    )  # fmt: skip
    assert len(next(loader).index) == 24
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{culprit:02}\.jpg: cannot be decoded"):
            next(loader)
    loader.close()


def test_closing_ends_the_threads_and_may_be_repeated() -> None:
    before = set(threading.enumerate())
    loader = TrainLoader(
        array_set("digits", 50), DATA, MEAN, STD,
        seed=0, global_batch=8, rank=0, world=1, parts=1, start_position=0, device=CPU,
    )  # fmt: skip
    next(loader)
    loader.close()
    loader.close()
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("soda-fast")]
    with pytest.raises(StopIteration):
        next(loader)


@pytest.mark.parametrize("compiler", [True, False])
def test_whatever_the_default_device_and_type_are(compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    view = ViewConfig(blur_probability=0.5, jitter_probability=0.5)
    data = replace(DATA, source=view, target=view, source_noise=0.25, backend="batched")
    if not compiler:
        for module in ("normal", "planes", "pixels", "resize"):
            monkeypatch.setattr(f"soda_kernels.cpu.{module}.library", lambda: None)
    expected = batches(1, data)[0], counter_rng.normal(0, "noise", torch.arange(2), (5,))
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr("soda_fast.data.operations._scale", _scale.__wrapped__)
    try:
        with torch.device("meta"):
            found = batches(1, data)[0], counter_rng.normal(0, "noise", torch.arange(2, device="cpu"), (5,))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(*(batch for batch, _ in (found, expected)))
    assert torch.equal(found[1], expected[1])


def test_closing_ends_a_next_that_waits_in_another_thread() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        go_on.wait()
        yield 1

    prefetched = Prefetcher(slow, 2, CPU, lambda item: [])
    assert next(prefetched) == 0
    seen: list[list[int]] = []
    consumer = threading.Thread(target=lambda: seen.append(list(prefetched)), daemon=True)
    consumer.start()
    closing = threading.Thread(target=prefetched.close, daemon=True)
    closing.start()
    assert prefetched._stop.wait(60)
    go_on.set()
    for thread in (closing, consumer):
        thread.join(60)
        assert not thread.is_alive()
    assert seen == [[]]


def test_prefetching_is_bounded_and_keeps_order() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    prefetched = Prefetcher(numbers, 3, CPU, lambda item: [])
    assert [next(prefetched) for _ in range(5)] == list(range(5))
    assert len(made) <= 5 + 3 + 1 + 1
    assert list(prefetched) == list(range(5, 100))
    prefetched.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_clean_views_are_the_normalised_images(backend: str) -> None:
    images, data = array_set("digits", 50), replace(DATA, backend=backend)
    split = [np.arange(20), np.arange(20, 47), np.array([49, 49, 3])]
    got = list(iterate_views(images, split, size=8, mean=MEAN, std=STD, data=data, device=CPU))
    for (views, indices), wanted in zip(got, split, strict=True):
        np.testing.assert_array_equal(indices, wanted)
        expected = (images.pixels[wanted].transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(
            STD, (3, 1, 1)
        )
        np.testing.assert_allclose(views, expected, atol=1e-5)


def test_drawn_views_belong_to_image_and_epoch() -> None:
    images = array_set("clouds", 20)
    whole, other, scattered = (
        {
            int(index): view
            for views, indices in iterate_views(
                images,
                split,
                size=16,
                mean=MEAN,
                std=STD,
                data=DATA,
                device=CPU,
                view=ProbeViewConfig().as_view(),
                seed=1,
                epoch=epoch,
            )
            for view, index in zip(views, indices, strict=True)
        }
        for split, epoch in (([np.arange(20)], 0), ([np.arange(20)], 1), ([np.arange(1, 20, 2), np.array([4])], 0))
    )
    assert all(torch.equal(view, whole[index]) for index, view in scattered.items())
    assert sum(not torch.equal(other[index], whole[index]) for index in whole) > 10


def test_views_of_nothing_are_none_and_leaving_early_ends_the_thread() -> None:
    images, settings = array_set("digits", 50), {"size": 8, "mean": MEAN, "std": STD, "data": DATA, "device": CPU}
    assert list(iterate_views(images, [], **settings)) == []
    before = set(threading.enumerate())
    views = iterate_views(images, [np.arange(5)] * 50, **settings)
    next(views)
    views.close()
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("soda-fast")]
