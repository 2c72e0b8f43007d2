"""COIL-100: file names into objects, held-out views and a turntable's cameras; poses of folders go into the store."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepare.test_prepare import prepare, write_tar, write_tree

from soda_fast.cli import main
from soda_fast.config import load_config
from soda_fast.config.schema import DataConfig
from soda_fast.data import Dataset, load_dataset
from soda_fast.data.poses import write_poses
from soda_fast.prepare.coil import HELD_OUT, turntable_pose
from tests.data.pictures import COIL, REAL, clouds, encode
from tests.data.test_poses import posed_folder

CONFIG = Path(__file__).parents[2] / "configs" / "coil100_pairs.yaml"
ANGLES = range(0, 360, 5)


def view(number: int, angle: int) -> bytes:
    return encode(Image.fromarray(clouds(np.random.default_rng(1000 * number + angle), 12, 12)), "PNG")


def files(numbers: tuple[int, ...] = (10, 2)) -> dict[str, bytes]:
    return {f"coil-100/obj{n}__{a}.png": view(n, a) for n in numbers for a in reversed(ANGLES)}


def load(root: Path, **changes: object) -> Dataset:
    return load_dataset(DataConfig(dataset="coil100", root=str(root), mean=(0.5,) * 3, std=(0.2,) * 3, **changes))


@pytest.mark.parametrize("form", ["tree", "tar.xz"])
def test_objects_in_order_every_fourth_view_held_out(form: str, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    write_tree(source, files() | {"coil-100/convertGroupppm2png.pl": b"#"})
    if form == "tar.xz":
        source = tmp_path / "coil.tar.xz"
        write_tar(source, files(), "w:xz")
    assert prepare("coil100", "--root", tmp_path, "--source", source) == 2, "two objects are not a hundred"
    assert prepare("coil100", "--root", tmp_path, "--source", source, "--part") == 0
    dataset = load(tmp_path, pairs=True)
    assert dataset.class_names == ("obj2", "obj10")
    assert (len(dataset.train), len(dataset.test)) == (108, 36)
    for images, angles in (
        (dataset.train, [angle for angle in ANGLES if angle not in HELD_OUT]),
        (dataset.test, list(HELD_OUT)),
    ):
        for number, label in ((2, 0), (10, 1)):
            rows = np.flatnonzero(images.labels == label)
            for row, angle in zip(rows.tolist(), angles, strict=True):
                expected = np.asarray(Image.open(io.BytesIO(view(number, angle))))
                np.testing.assert_array_equal(images.decode(row), expected)


def test_whole_objects_can_be_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second of four: all views of theirs are the test split, and all of the others are for training."""
    write_tree(tmp_path / "raw", files((11, 3, 5, 2)))
    command = ("coil100", "--root", tmp_path, "--source", tmp_path / "raw", "--part")
    assert prepare(*command, "--held-out-objects", 2) == 0
    dataset = load(tmp_path, pairs=True)
    assert dataset.class_names == ("obj2", "obj3", "obj5", "obj11")
    assert np.bincount(dataset.train.labels).tolist() == [72, 0, 72]
    assert np.bincount(dataset.test.labels).tolist() == [0, 72, 0, 72]
    np.testing.assert_array_equal(dataset.test.decode(1), np.asarray(Image.open(io.BytesIO(view(3, 5)))))
    np.testing.assert_array_equal(dataset.test_cameras, dataset.train_cameras, err_msg="the same turns")

    module = ("--encoder", "torchvision:resnet18", f"data.root={tmp_path}")
    assert main(["evaluate", str(CONFIG), *module]) == 2, "no label of the test split has been seen"
    assert "but no class of the test split is in the train split" in capsys.readouterr().err

    assert prepare(*command, "--held-out-objects", 2) == 0, "it is there already"
    capsys.readouterr()
    for others in ((), ("--held-out-objects", 1)):
        assert prepare(*command, *others) == 2
        assert "is there already and holds out 2; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("coil100", "--held-out-objects", 2), "-objects 2: {} has 2 objects, and some must be left to train on"),
        (("coil100", "--held-out-objects", -1), "--held-out-objects -1: must be 0 or more"),
        (("cifar10", "--held-out-objects", 1), "--held-out-objects 1: cifar10 has no objects to hold out"),
        (("coil100", "--held-out-objects", 1, "--check"), "says what a store is made of; leave it out with --check"),
    ],
)
def test_objects_that_cannot_be_held_out(
    arguments: tuple[object, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path / "raw", {f"obj{n}__5.png": b"" for n in (1, 2)})
    assert prepare(*arguments, "--root", tmp_path / "root", "--source", tmp_path / "raw", "--part") == 2
    assert words.format(tmp_path / "raw") in capsys.readouterr().err
    assert not (tmp_path / "root" / "coil100-store").exists()


def test_cameras_go_around_the_table(tmp_path: Path) -> None:
    write_tree(tmp_path / "raw", files((1,)))
    assert prepare("coil100", "--root", tmp_path, "--source", tmp_path / "raw", "--part") == 0
    dataset = load(tmp_path)
    for cameras, angles in (
        (dataset.train_cameras, sorted(set(ANGLES) - set(HELD_OUT))),
        (dataset.test_cameras, HELD_OUT),
    ):
        radians = np.radians(list(angles))
        position = np.stack((np.cos(radians), np.sin(radians), np.zeros(len(radians))), axis=1)
        np.testing.assert_allclose(cameras[:, :, 3], position, atol=1e-7)
        middle = cameras @ np.array([0.5, 0.5, 1.0, 0.0])
        np.testing.assert_allclose(middle, -position, atol=1e-7, err_msg="through the axis")
        upright = cameras[:, :, 1] / np.linalg.norm(cameras[:, :, 1], axis=1, keepdims=True)
        np.testing.assert_allclose(upright, np.broadcast_to([0, 0, -1], upright.shape), atol=1e-7)


MISTAKES = {
    "other files": ({"coil-100/obj1.png": b"", "x__5.png": b""}, r"holds no objN__A.png; give coil-100.zip"),
    "another angle": ({"obj1__7.png": view(1, 5)}, r"obj1__7.png has an angle that is not 0, 5, .. 355"),
    "a whole turn": ({"obj1__360.png": view(1, 5)}, r"obj1__360.png has an angle that is not"),
    "twice": ({"a/obj1__5.png": view(1, 5), "b/obj1__5.png": view(1, 5)}, r"are the same view; remove one"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_coil_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = MISTAKES[name]
    write_tree(tmp_path / "raw", content)
    assert prepare("coil100", "--root", tmp_path, "--source", tmp_path / "raw", "--part") == 2
    assert words in capsys.readouterr().err


def test_without_a_store_the_command_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"holds no coil100-store; make it: soda-fast prepare coil100 --root"):
        load(tmp_path)
    assert prepare("coil100", "--root", tmp_path, "--download") == 2
    assert "coil100: cannot be verified; download it from https://" in capsys.readouterr().err


def test_poses_of_a_folder_go_into_its_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = posed_folder(tmp_path / "raw")
    data = DataConfig(dataset="folder", root=str(root), pairs=True)
    cameras = load_dataset(data).train_cameras
    assert prepare("folder", "--root", tmp_path / "root", "--source", root) == 0
    stored = DataConfig(dataset="folder", root=str(tmp_path / "root"), pairs=True)
    np.testing.assert_array_equal(load_dataset(stored).train_cameras, cameras)
    poses = tmp_path / "root" / "folder-store" / "poses.csv"
    poses.write_text(poses.read_text().replace(",11\n", ",12\n"))
    capsys.readouterr()
    assert prepare("folder", "--root", tmp_path / "root", "--check") == 2
    assert "poses.csv: has changed since it was made" in capsys.readouterr().out

    (root / "poses.csv").write_text(write_poses([("train/cup/01.png", turntable_pose(0))]))
    assert prepare("folder", "--root", tmp_path / "other", "--source", root) == 2
    assert "has no line for train/cup/03.png (10 more)" in capsys.readouterr().err


def test_poses_in_an_archive_are_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "x.tar", {"top/train/a/1.png": view(1, 0), "top/poses.csv": b"file"})
    assert prepare("folder", "--root", tmp_path, "--source", tmp_path / "x.tar") == 2
    assert "holds top/poses.csv, and poses are read from folders alone" in capsys.readouterr().err


def test_the_real_archive(tmp_path: Path) -> None:
    """Its first two objects, as the configuration asks for them."""
    if not (REAL / COIL).is_file():
        pytest.skip(f"no {COIL} beside the repository")
    with tarfile.open(REAL / COIL) as archive:
        for _, member in zip(range(144), archive):
            archive.extract(member, tmp_path / "raw", filter="data")
    assert prepare("coil100", "--root", tmp_path, "--source", tmp_path / "raw", "--part") == 0
    dataset = load_dataset(load_config(CONFIG, [f"data.root={tmp_path}"]).data)
    assert (len(dataset.train), len(dataset.test), len(dataset.class_names)) == (108, 36, 2)
    assert dataset.train.decode(0).shape == (128, 128, 3)
    assert dataset.train_cameras.shape == (108, 3, 4)

    held_out = ("--held-out-objects", 1, "--part")
    assert prepare("coil100", "--root", tmp_path / "other", "--source", tmp_path / "raw", *held_out) == 0
    dataset = load_dataset(load_config(CONFIG, [f"data.root={tmp_path / 'other'}"]).data)
    assert (set(dataset.train.labels), set(dataset.test.labels)) == ({0}, {1})
    assert (len(dataset.train), len(dataset.test)) == (72, 72)
