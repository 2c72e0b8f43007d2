"""Class folders and Tiny-ImageNet's tree."""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training.tiny import run_tiny
from training.tiny import tiny_tree as tiny_run

from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.config.schema import DataConfig
from soda_fast.data import Dataset, load_dataset
from soda_fast.data.catalog import count_train_images
from soda_fast.data.image_set import FileImages
from soda_fast.describe import describe
from tests.data.pictures import REAL, TINY_IMAGENET, clouds, encode

GENERATOR = np.random.default_rng(0)


def picture(height: int = 12, width: int = 16) -> Image.Image:
    return Image.fromarray(clouds(GENERATOR, height, width))


def write(root: Path, *files: str) -> None:
    """A small picture at each path."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(), "PNG" if path.suffix.lower() == ".png" else "JPEG"))


def load(root: Path, name: str = "folder") -> Dataset:
    return load_dataset(DataConfig(dataset=name, root=str(root), resident_mib=0))


def names(images: FileImages | None, root: Path) -> list[str]:
    assert images is not None
    return [Path(images.describe(i)).relative_to(root).as_posix() for i in range(len(images))]


def test_classes_are_sorted_folders_and_images_are_found_anywhere_in_them(tmp_path: Path) -> None:
    write(tmp_path, "train/dog/b.JPG", "train/dog/a.png", "train/cat/deep/er/c.jpeg", "test/dog/x.Png")
    for file in ("train/dog/notes.txt", "train/readme.md", "train/dog/._a.png", "train/.cache/d.bin"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("no image")
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert names(dataset.train, tmp_path) == ["train/cat/deep/er/c.jpeg", "train/dog/a.png", "train/dog/b.JPG"]
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert names(dataset.test, tmp_path) == ["test/dog/x.Png"]
    assert dataset.test.labels.tolist() == [1], "labelled by train's classes"
    assert dataset.train.read(0).ndim == 1
    assert dataset.train.decode(0).shape == (12, 16, 3)


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "tree", "train/a/0.jpg", "train/b/1.jpg")
    write(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "tree/train/a/again").symlink_to(tmp_path / "tree/train/a")
    (tmp_path / "tree/train/a/more").symlink_to(tmp_path / "elsewhere")
    assert names(load(tmp_path / "tree").train, tmp_path / "tree") == [
        "train/a/0.jpg",
        "train/a/more/2.jpg",
        "train/b/1.jpg",
    ]


def test_sizes_are_those_of_the_headers(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for number in range(30):
        picture(10 + number, 50 - number).save(folder / f"{number:02}.png")
    images = load(tmp_path).train
    assert images.heights.tolist() == [10 + number for number in range(30)]
    assert images.widths.tolist() == [50 - number for number in range(30)]


def test_the_test_split_is_test_then_val_then_none(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png")
    assert load(tmp_path).test is None
    write(tmp_path, "val/a/2.png")
    assert names(load(tmp_path).test, tmp_path) == ["val/a/2.png"]
    write(tmp_path, "test/a/3.png")
    assert names(load(tmp_path).test, tmp_path) == ["test/a/3.png"]


def test_statistics_are_measured_and_repeatable(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/a/{number}.png" for number in range(5)))
    first, second = load(tmp_path), load(tmp_path)
    assert (first.mean, first.std) == (second.mean, second.std)
    pixels = np.stack([first.train.decode(i) for i in range(5)]) / 255
    np.testing.assert_allclose(first.mean, pixels.mean(axis=(0, 1, 2)), atol=1e-4)


def test_imagenet_is_a_folder_with_known_statistics(tmp_path: Path) -> None:
    write(tmp_path, "train/n01440764/1.JPEG", "val/n01440764/2.JPEG")
    dataset = load(tmp_path, "imagenet")
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert len(dataset.test) == 1


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], [], r"data.root .*: has no folder train/; put one folder for each class into it"),
        ([], ["train"], r"train: holds no class folders"),
        (["train/1.png"], [], r"train: holds no class folders"),
        (
            ["train/a/1.png"],
            ["train/b"],
            r"train/b: holds no .jpg, .jpeg, .png, .webp, .bmp, .tif or .tiff file; add images or remove",
        ),
        (
            ["train/a/1.png", "test/b/1.png"],
            [],
            r"test/b: is a class that .*train does not have; rename",
        ),
        (["train/a/1.png"], ["val"], r"val: holds no class folders"),
        (["train/a/1.png"], ["val/a"], r"val/a: holds no .jpg"),
    ],
)
def test_trees_that_are_not_as_they_should_be(files: list[str], folders: list[str], message: str, tmp_path) -> None:
    write(tmp_path, *files)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no readable image"),
        (b"garbage that is no image", "is no readable image"),
        (encode(Image.new("RGB", (5, 5)), "GIF"), "is a GIF file; convert it to JPEG or PNG"),
        (encode(Image.new("RGB", (500, 500)), "PNG")[:20], "is no readable image"),
    ],
)
def test_files_that_cannot_be_used_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"train/a/{number}.png" for number in range(20)))
    (tmp_path / "train" / "a" / "13.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"train/a/13\.png: {message}"):
        load(tmp_path)


def tiny_tree(root: Path) -> Path:
    """Two classes, three training and two validation images."""
    write(root, "train/n02/images/n02_0.JPEG", "train/n02/images/n02_1.JPEG", "train/n01/images/n01_0.JPEG")
    write(root, "val/images/val_0.JPEG", "val/images/val_1.JPEG")
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t1\t1\t9\t9\n")
    (root / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t9\t9\n")
    return root


@pytest.mark.parametrize("below", ["", "tiny-imagenet-200"])
def test_tiny_imagenet_with_any_number_of_classes(below: str, tmp_path: Path) -> None:
    root = tiny_tree(tmp_path / below)
    write(root, "test/images/test_0.JPEG")  # without labels
    dataset = load(tmp_path, "tiny_imagenet")
    assert dataset.class_names == ("n01", "n02")
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert names(dataset.test, root) == ["val/images/val_1.JPEG", "val/images/val_0.JPEG"]
    assert dataset.test.labels.tolist() == [1, 0]
    assert dataset.mean == (0.4802, 0.4481, 0.3975)
    assert dataset.note is None, "val/ is what is read"


def test_a_part_of_an_official_data_set_is_counted(tmp_path: Path) -> None:
    """For a dry run: steps, epochs and warm-up follow from what is there."""

    def count(name: str, root: Path) -> int:
        return count_train_images(DataConfig(dataset=name, root=str(root)))

    root, stores = tiny_tree(tmp_path / "tree" / "tiny-imagenet-200"), tmp_path / "stores"
    assert count("tiny_imagenet", root.parent) == count("imagenet", root) == 3
    assert count("tiny_imagenet", tmp_path / "nowhere") == 100_000
    command = ["prepare", "tiny_imagenet", "--part", "--source", str(root), "--root", str(stores), "--processes", "1"]
    assert main(command) == 0
    assert count("tiny_imagenet", stores) == 3
    data = folder_data(stores) | {"dataset": "tiny_imagenet"}
    assert "epochs of 3 images" in describe(config_from_tree(tiny_run(tmp_path / "run", 1) | {"data": data}))


def test_tiny_imagenet_trees_that_are_not_as_they_should_be(tmp_path: Path) -> None:
    root = tiny_tree(tmp_path)
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn01\nval_1.JPEG\tn03\n")
    with pytest.raises(ValueError, match=r"val_annotations.txt, line 2: class 'n03' is not a folder of train/"):
        load(tmp_path, "tiny_imagenet")
    annotations.write_text("val_7.JPEG\tn01\n")
    with pytest.raises(ValueError, match=r"val_7.JPEG: cannot be read .No such file or directory.; restore or remove"):
        load(tmp_path, "tiny_imagenet")
    annotations.write_text("")
    with pytest.raises(ValueError, match=r"val_annotations.txt: is empty"):
        load(tmp_path, "tiny_imagenet")
    annotations.unlink()
    with pytest.raises(ValueError, match=r"val_annotations.txt: cannot be read \(No such file or directory\)"):
        load(tmp_path, "tiny_imagenet")


@pytest.mark.slow
def test_the_real_tiny_imagenet_is_read(tmp_path: Path) -> None:
    if not (REAL / TINY_IMAGENET).is_file():
        pytest.skip(f"no {TINY_IMAGENET} beside the repository")
    with tarfile.open(REAL / TINY_IMAGENET) as tar:
        tar.extractall(tmp_path, filter="data")
    dataset = load(tmp_path, "tiny_imagenet")
    assert len(dataset.class_names) == 100
    assert (len(dataset.train), len(dataset.test)) == (50_000, 5_000)
    assert (np.bincount(dataset.train.labels) == 500).all()
    assert (np.bincount(dataset.test.labels) == 50).all()
    assert (dataset.train.heights == 64).all()
    assert (dataset.train.widths == 64).all()


def test_of_two_test_splits_it_is_told_which_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "tree", "train/a/1.png", "train/a/2.png", "val/a/3.png")
    assert load(tmp_path / "tree").note is None
    write(tmp_path / "tree", "test/a/4.png")
    said = f"{tmp_path / 'tree'}: holds both test/ and val/; test/ is the test split, and val/ is not read"
    dataset = load(tmp_path / "tree")
    assert names(dataset.test, tmp_path) == ["tree/test/a/4.png"]
    assert dataset.note == said
    run_tiny(tiny_run(tmp_path / "run", 1) | {"data": folder_data(tmp_path / "tree")})
    assert said in capsys.readouterr().out
    assert main(["prepare", "folder", "--root", str(tmp_path / "tree"), "--processes", "1"]) == 0
    assert said in capsys.readouterr().out
    assert load(tmp_path / "tree").note is None, "a store has one"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted((tmp_path / "tree").glob("t*/a/*.png")) + sorted((tmp_path / "tree").glob("val/a/*.png")):
            archive.write(path, path.relative_to(tmp_path / "tree").as_posix())
    command = ["prepare", "folder", "--root", str(tmp_path), "--source", str(tmp_path / "x.zip"), "--processes", "1"]
    assert main(command) == 0
    assert "x.zip: holds both test/ and val/" in capsys.readouterr().out


def folder_data(root: Path) -> dict[str, object]:
    return {"dataset": "folder", "root": str(root), "source_size": 8, "target_size": 8}
