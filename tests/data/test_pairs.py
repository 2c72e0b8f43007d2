"""Source and target as two images of one object: who is drawn, by whomever, and how each backend carries it out."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.config.schema import DataConfig, ViewConfig
from soda_fast.data import Batch, TrainLoader, load_dataset
from soda_fast.data.image_set import ArrayImages, ImageSet
from soda_fast.data.order import sample_indices
from soda_fast.data.pairs import Pairs
from tests.data.pictures import array_set, clouds, encode, file_set, needs_dali

CPU = torch.device("cpu")
STILL = ViewConfig(crop_flip_probability=0.0, randaugment_probability=0.0)
DATA = DataConfig(
    dataset="folder", pairs=True, source_size=8, target_size=8, source=STILL, target=STILL, source_noise=0.0
)
BACKENDS = ["torchvision", "batched", pytest.param("dali", marks=needs_dali)]


def grey_images(count: int = 30) -> ArrayImages:
    """Images of one grey level each, which is their number; object k has the numbers k, k + 3, ..."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3)).copy()
    return ArrayImages(pixels, np.arange(count) % 3, "grey image")


def batches(count: int, data: DataConfig = DATA, images: ImageSet | None = None, **changes: int) -> list[Batch]:
    place = {"seed": 3, "global_batch": 12, "rank": 0, "world": 1, "parts": 1, "start_position": 0} | changes
    loader = TrainLoader(grey_images() if images is None else images, data, (0.0,) * 3, (1.0,) * 3, device=CPU, **place)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


def numbers(views: torch.Tensor) -> np.ndarray:
    """The numbers of the grey images that views show."""
    return (views * 255).round()[:, 0, 0, 0].long().numpy()


def test_every_other_image_of_the_object_is_as_likely_and_no_image_is_its_own_partner() -> None:
    labels = np.array([0, 1, 0, 1, 0, 2, 2, 0])
    positions = np.arange(40_000)
    partners = Pairs(labels).draw(1, positions, np.full(40_000, 4))
    counts = np.bincount(partners, minlength=8)
    assert counts[[1, 3, 4, 5, 6]].sum() == 0
    assert np.abs(counts[[0, 2, 7]] - 40_000 / 3).max() < 4 * np.sqrt(40_000 * 2 / 9)
    assert (Pairs(labels).draw(1, positions, np.full(40_000, 5)) == 6).all(), "of two, always the other"


def test_partners_depend_on_seed_and_position_alone() -> None:
    pairs, indices = Pairs(np.zeros(50, np.int64)), np.arange(50)
    drawn = pairs.draw(1, indices, indices)
    np.testing.assert_array_equal(pairs.draw(1, indices[10:], indices[10:]), drawn[10:])
    assert (pairs.draw(1, indices + 50, indices) != drawn).any()
    assert (pairs.draw(2, indices, indices) != drawn).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_views_are_of_one_object_and_of_different_images(backend: str) -> None:
    images = grey_images()
    for batch in batches(3, replace(DATA, backend=backend)):
        source, target = numbers(batch.source), numbers(batch.target)
        np.testing.assert_array_equal(source, sample_indices(3, batch.position.numpy(), 30))
        np.testing.assert_array_equal(target, Pairs(images.labels).draw(3, batch.position.numpy(), source))
        np.testing.assert_array_equal(batch.index, source)
        np.testing.assert_array_equal(batch.label, images.labels[target])
        assert (source != target).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [2, 3])
def test_any_processes_and_any_start_give_the_same_pairs(backend: str, world: int) -> None:
    data = replace(DATA, backend=backend, source=ViewConfig(), target=ViewConfig())
    images = array_set("digits", 30)
    whole = batches(2, data, images)
    for rank in range(world):
        (share,) = batches(1, data, images, rank=rank, world=world, start_position=12)
        for name in ("source", "target", "index", "label"):
            assert torch.equal(getattr(share, name), getattr(whole[1], name)[rank::world]), name


def test_pixels_are_torchvisions_in_every_backend_in_memory() -> None:
    data = replace(DATA, source=ViewConfig(), target=ViewConfig(), source_size=12, target_size=5)
    expected, ours = (batches(2, replace(data, backend=b), array_set("clouds", 30)) for b in ("torchvision", "batched"))
    for left, right in zip(ours, expected, strict=True):
        torch.testing.assert_close(left.source, right.source, atol=1e-6, rtol=0)
        assert torch.equal(left.target, right.target)


@needs_dali
def test_files_of_different_sizes_are_torchvisions_in_dali(tmp_path: Path) -> None:
    """The central squares in their own size are cut, not resized: equal in every grey level."""
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(clouds(generator, 16, 16 + number % 5)) for number in range(24)]
    images = file_set(tmp_path, {f"{number:02}.jpg": encode(p, "JPEG") for number, p in enumerate(pictures)})
    data = replace(DATA, source_size=16, target_size=16)
    expected, ours = (batches(2, replace(data, backend=b), images) for b in ("torchvision", "dali"))
    for left, right in zip(ours, expected, strict=True):
        assert torch.equal(left.source, right.source)
        assert torch.equal(left.target, right.target)


@pytest.mark.parametrize("backend", ["torchvision", pytest.param("dali", marks=needs_dali)])
def test_an_unreadable_partner_is_replaced_and_the_source_stays(backend: str, tmp_path: Path) -> None:
    greys = [Image.new("RGB", (8, 8), (10 * number,) * 3) for number in range(12)]
    images = file_set(tmp_path, {f"{number:02}.png": encode(g, "PNG") for number, g in enumerate(greys)})
    data = replace(DATA, backend=backend, on_unreadable="replace")
    (whole,) = batches(1, data, images)
    broken = 5
    images.paths[broken].write_bytes(images.paths[broken].read_bytes()[:50])
    (batch,) = batches(1, data, images)
    source, target = numbers(whole.source), numbers(whole.target)
    for found, expected, other in ((batch.source, source, target), (batch.target, target, source)):
        stand_in = np.where(other == 60, 70, 60)  # the next of the object that is not the pair's other image
        np.testing.assert_array_equal(numbers(found), np.where(expected == 50, stand_in, expected))


def object_folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / "train" / name).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            (root / "train" / name / f"{number}.png").write_bytes(encode(Image.fromarray(noise), "PNG"))
    return root


def test_objects_are_class_folders(tmp_path: Path) -> None:
    dataset = load_dataset(replace(DATA, root=str(object_folders(tmp_path, {"cup": 3, "duck": 2}))))
    assert (dataset.class_names, len(dataset.train)) == (("cup", "duck"), 5)


def test_an_object_with_one_image_is_refused_by_name(tmp_path: Path) -> None:
    root = object_folders(tmp_path, {"cup": 3, "duck": 1})
    with pytest.raises(ValueError, match=r"data.pairs is true, but of object duck there is 1 readable .* needs two"):
        load_dataset(replace(DATA, root=str(root)))
    assert len(load_dataset(replace(DATA, root=str(root), pairs=False)).train) == 4
