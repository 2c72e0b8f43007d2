"""Data sets by name: what they hold, and what is said when they do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits as original_digits

from soda_fast.config.schema import DataConfig
from soda_fast.data import load_dataset
from soda_fast.data.catalog import known_statistics, known_train_images
from soda_fast.data.digits import load_digits
from soda_fast.data.image_files import measure
from tests.data.pictures import array_set


def test_digits_are_scikit_learns() -> None:
    digits = load_dataset(DataConfig(dataset="digits", root="nowhere"))
    assert (digits.name, len(digits.train), len(digits.test)) == ("digits", 1437, 360)
    assert digits.class_names == tuple("0123456789")
    original = original_digits()
    for image_set in (digits.train, digits.test):
        for place in range(0, len(image_set), 7):
            number = int(image_set.describe(place).removeprefix("digits image "))
            levels = image_set.read(place)
            assert levels.shape == (8, 8, 3)
            assert (levels == levels[..., :1]).all()
            np.testing.assert_array_equal(levels[..., 0], np.round(original.images[number] * 255 / 16))
            assert image_set.labels[place] == original.target[number]


def test_digits_are_split_evenly_and_without_overlap() -> None:
    train, test, _ = load_digits()
    assert not set(train.numbers) & set(test.numbers)
    assert set(train.numbers) | set(test.numbers) == set(range(1797))
    counts = np.bincount(np.concatenate((train.labels, test.labels)))
    assert np.abs(np.bincount(test.labels) - counts / 5).max() < 1
    assert test.numbers[:6].tolist() == sorted(test.numbers)[:6]


def test_known_facts_of_digits_are_true() -> None:
    train = load_digits()[0]
    assert known_train_images("digits") == len(train)
    assert known_statistics("digits") == measure(train)


def test_facts_are_known_without_the_files() -> None:
    sizes = {name: known_train_images(name) for name in ("cifar10", "cifar100", "tiny_imagenet", "imagenet", "folder")}
    assert sizes == {
        "cifar10": 50_000,
        "cifar100": 50_000,
        "tiny_imagenet": 100_000,
        "imagenet": 1_281_167,
        "folder": None,
    }
    assert known_statistics("cifar10") == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    with pytest.raises(ValueError, match=r"data.dataset folder: .* give data.mean and data.std"):
        known_statistics("folder")


def test_the_configurations_statistics_come_first() -> None:
    mine = load_dataset(DataConfig(dataset="digits", mean=(0.1, 0.2, 0.3)))
    assert mine.mean == (0.1, 0.2, 0.3)
    assert mine.std == known_statistics("digits")[1]


@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet", "imagenet", "folder"])
def test_a_root_that_is_no_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"data.root .*absent: is not a folder; .*images of {name}"):
        load_dataset(DataConfig(dataset=name, root=str(tmp_path / "absent")))


def test_subsets_keep_names_labels_and_order() -> None:
    some = array_set("digits", 20).subset(np.array([5, 2, 11])).subset(np.array([2, 0]))
    assert [some.describe(i) for i in range(2)] == ["digits image 11", "digits image 5"]
    assert some.labels.tolist() == [11 % 3, 5 % 3]
    assert (len(some), len(some.heights), len(some.widths)) == (2, 2, 2)


def test_measuring_is_the_mean_and_deviation_of_all_pixels() -> None:
    images = array_set("noise", 30)
    mean, std = measure(images)
    np.testing.assert_allclose(mean, images.pixels.reshape(-1, 3).mean(axis=0) / 255, atol=1e-4)
    np.testing.assert_allclose(std, images.pixels.reshape(-1, 3).std(axis=0) / 255, atol=1e-4)


def test_black_images_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "cat" / "black.png")
    with pytest.raises(ValueError, match=r"data.std: a channel .* does not vary; give data.mean and data.std"):
        load_dataset(DataConfig(dataset="folder", root=str(tmp_path)))
