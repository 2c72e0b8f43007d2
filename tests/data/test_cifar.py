"""CIFAR: archives and folders of the official layout, with the tests' own pixels and checksums."""

import hashlib
import io
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from soda_fast.config.schema import DataConfig
from soda_fast.data import load_dataset
from soda_fast.data.cifar import OFFICIAL, CifarFiles, load_cifar
from tests.data.pictures import REAL

NAMES = ("cifar10", "cifar100")
PER_BATCH = 20


def pictures(count: int) -> np.ndarray:
    """(count, 32, 32, 3): CIFAR-10's own first images where they are at hand, else noise."""
    archive = REAL / "cifar10-lossless-first4000.tar"
    if not archive.is_file():
        return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    with tarfile.open(archive) as tar:
        member = next(member for member in tar if member.name.endswith(".png"))
        rows = np.asarray(Image.open(tar.extractfile(member)).convert("RGB"))
    return rows.reshape(-1, 32, 32, 3)[:count]


def unpacked(root: Path, name: str) -> tuple[CifarFiles, np.ndarray, np.ndarray]:
    """Write the folder as CIFAR's authors did: its files with their checksums, all pixels and all labels in order."""
    official, classes = OFFICIAL[name], int(name.removeprefix("cifar"))
    batches = [*official.train, *official.test]
    images = pictures(PER_BATCH * len(batches))
    labels = np.arange(len(images)) * 7 % classes
    contents = {}
    for number, batch in enumerate(batches):
        rows = slice(number * PER_BATCH, (number + 1) * PER_BATCH)
        flat = images[rows].transpose(0, 3, 1, 2).reshape(PER_BATCH, -1)
        contents[batch] = {b"data": flat, official.label_key: labels[rows].tolist(), b"coarse_labels": [0] * PER_BATCH}
    contents[next(iter(official.meta))] = {official.names_key: [f"class {i}".encode() for i in range(classes)]}
    folder = root / official.folder
    folder.mkdir(parents=True)
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "readme.html").write_text("not a batch")
    return checksums(folder, official), images, labels


def checksums(folder: Path, files: CifarFiles) -> CifarFiles:
    parts = {
        part: {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in getattr(files, part)}
        for part in ("train", "test", "meta")
    }
    return replace(files, **parts)


def packed(root: Path, name: str) -> tuple[CifarFiles, np.ndarray, np.ndarray]:
    """The same as an archive; the folder is gone."""
    made = unpacked(root, name)
    with tarfile.open(root / made[0].archive, "w:gz") as tar:
        tar.add(root / made[0].folder, arcname=made[0].folder)
    shutil.rmtree(root / made[0].folder)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_official_checksums_are_torchvisions(name: str) -> None:
    theirs = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    official = OFFICIAL[name]
    assert dict(official.train) == dict(theirs.train_list)
    assert dict(official.test) == dict(theirs.test_list)
    assert dict(official.meta) == {theirs.meta["filename"]: theirs.meta["md5"]}
    assert (official.names_key.decode(), official.archive) == (theirs.meta["key"], theirs.filename)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [unpacked, packed])
@pytest.mark.parametrize("below", ["", "NAME"])
def test_archive_and_folder_give_every_pixel_and_label(name: str, write, below: str, tmp_path: Path) -> None:
    files, images, labels = write(tmp_path / below.replace("NAME", name), name)
    train, test, class_names = load_cifar(name, tmp_path, files)
    border = len(images) - PER_BATCH
    np.testing.assert_array_equal(train.pixels, images[:border])
    np.testing.assert_array_equal(train.labels, labels[:border])
    np.testing.assert_array_equal(test.pixels, images[border:])
    np.testing.assert_array_equal(test.labels, labels[border:])
    assert train.labels.dtype == np.int64
    assert class_names[3] == "class 3"
    assert (train.describe(3), test.describe(0)) == (f"{name} training image 3", f"{name} test image 0")


@pytest.mark.parametrize("write", [unpacked, packed])
def test_a_file_that_is_not_the_official_one_is_not_unpickled(write, tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    with pytest.raises(
        ValueError,
        match=r"(data_batch_1|batches.meta): MD5 is [0-9a-f]{32}, the official file's is (c99c|5ff9)\w+; download",
    ):
        load_dataset(DataConfig(dataset="cifar10", root=str(tmp_path)))


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    files, _, _ = unpacked(tmp_path, "cifar10")
    witness = tmp_path / "witness"
    (tmp_path / files.folder / "data_batch_3").write_bytes(
        b"cpathlib\nPath\n(S'" + str(witness).encode() + b"'\ntRctouch\n."
    )
    with pytest.raises(ValueError, match="data_batch_3: MD5 is"):
        load_cifar("cifar10", tmp_path, files)
    assert not witness.exists()


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found neither cifar-10-batches-py/ nor cifar-10-python.tar.gz .*download"):
        load_cifar("cifar10", tmp_path)
    files, _, _ = unpacked(tmp_path, "cifar10")
    (tmp_path / files.folder / "test_batch").unlink()
    with pytest.raises(ValueError, match=r"test_batch: cannot be read \(No such file or directory\); unpack"):
        load_cifar("cifar10", tmp_path, files)


def test_archives_that_are_damaged_or_incomplete_are_refused(tmp_path: Path) -> None:
    files, _, _ = packed(tmp_path, "cifar100")
    archive = tmp_path / files.archive
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz: .*download"):
        load_cifar("cifar100", tmp_path, files)
    for place in (100, len(whole) // 2):
        archive.write_bytes(whole[:place] + b"damage" + whole[place + 6 :])
        with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz.*download"):
            load_cifar("cifar100", tmp_path, files)
    archive.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz: cannot be read .damaged or no tar archive.; down"):
        load_cifar("cifar100", tmp_path, files)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other/file"), io.BytesIO())
    with pytest.raises(ValueError, match=r"holds no cifar-100-python/train; download"):
        load_cifar("cifar100", tmp_path, files)
