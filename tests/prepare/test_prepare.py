"""`soda-fast prepare` from what every data set is published as; training from the store is training from the source."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_cifar import packed
from PIL import Image
from scipy.io import savemat

from soda_fast.cli import main
from soda_fast.config.schema import DataConfig
from soda_fast.data import Dataset, TrainLoader, cifar, load_dataset
from soda_fast.data.shard_images import ShardImages
from soda_fast.prepare import official
from soda_fast.prepare.official import OFFICIAL, Archive, Official, check_counts, verify
from soda_fast.store import workers
from tests.data.pictures import clouds, encode

GENERATOR = np.random.default_rng(0)


def picture(number: int) -> bytes:
    return encode(Image.fromarray(clouds(np.random.default_rng(number), 20, 26)), "JPEG")


def prepare(*arguments: object) -> int:
    return main(["prepare", *map(str, arguments), "--processes", "1"])


def load(name: str, root: Path) -> Dataset:
    return load_dataset(DataConfig(dataset=name, root=str(root), mean=(0.5,) * 3, std=(0.2,) * 3, resident_mib=0))


def same_images(one: Dataset, other: Dataset) -> None:
    assert one.class_names == other.class_names
    for ours, theirs in ((one.train, other.train), (one.test, other.test)):
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.heights, theirs.heights)
        for index in range(len(ours)):
            np.testing.assert_array_equal(ours.decode(index), theirs.decode(index))


def tree_files() -> dict[str, bytes]:
    files = {f"train/n{c}/images/n{c}_{k}.JPEG": picture(10 * c + k) for c in (1, 2) for k in (0, 1, 10, 2)}
    files |= {f"val/images/val_{k}.JPEG": picture(100 + k) for k in range(4)}
    lines = "".join(f"val_{k}.JPEG\tn{1 + k % 2}\t0\t0\t9\t9\n" for k in (2, 0, 1, 3))
    return {**files, "val/val_annotations.txt": lines.encode(), "train/n1/n1_boxes.txt": b"", "wnids.txt": b"n1\nn2\n"}


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_keeps_every_pixel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, images, labels = packed(tmp_path, name)
    monkeypatch.setitem(cifar.OFFICIAL, name, files)
    raw = load(name, tmp_path)
    assert prepare(name, "--root", tmp_path) == 2, "20 images a batch are not the official 10,000"
    assert prepare(name, "--root", tmp_path, "--part") == 0
    (tmp_path / files.archive).unlink()
    stored = load(name, tmp_path)
    same_images(raw, stored)
    border = len(stored.train)
    np.testing.assert_array_equal(stored.test.labels, labels[border:])
    np.testing.assert_array_equal(np.stack([stored.train.decode(i) for i in range(border)]), images[:border])


def test_cifar_that_is_not_official_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, _, _ = packed(tmp_path, "cifar10")
    assert prepare("cifar10", "--root", tmp_path / "root", "--source", tmp_path / files.archive, "--part") == 2
    assert "the official file's is" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["tree", "tree itself", "zip", "tar", "tar.xz"])
def test_tiny_imagenet_from_its_zip_or_tree(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tree_files()
    write_tree(tmp_path / "raw" / "tiny-imagenet-200", files)
    source = tmp_path / "raw"
    named = {f"tiny-imagenet-200/{name}": content for name, content in files.items()}
    if form == "tree itself":
        source /= "tiny-imagenet-200"
    elif form == "zip":
        source = tmp_path / "zips"
        source.mkdir()
        with zipfile.ZipFile(source / "tiny-imagenet-200.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in reversed(named.items()):
                archive.writestr(name, content)
    elif form.startswith("tar"):
        source = tmp_path / "x.tar"
        write_tar(source, named, "w:xz" if form.endswith("xz") else "w:")
    root = tmp_path / "root"
    assert prepare("tiny_imagenet", "--root", root, "--source", source) == 2
    assert ("give --part" if form.startswith("tree") else "MD5 is") in capsys.readouterr().err
    assert prepare("tiny_imagenet", "--root", root, "--source", source, "--part") == 0
    assert "8 train images, 4 test images, 2 classes" in capsys.readouterr().out
    same_images(load("tiny_imagenet", tmp_path / "raw"), load("tiny_imagenet", root))
    stored = load("tiny_imagenet", root).train
    assert isinstance(stored, ShardImages)
    assert stored.content(2) == files["train/n1/images/n1_10.JPEG"], "bytes as they were, in the order of paths"


def test_an_official_zip_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        for name, content in tree_files().items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    md5 = hashlib.md5((tmp_path / "tiny-imagenet-200.zip").read_bytes()).hexdigest()
    ours = Official((Archive("tiny-imagenet-200.zip", md5),), 2, {"train": (4, 4), "test": (2, 2)})
    monkeypatch.setitem(OFFICIAL, "tiny_imagenet", ours)
    assert prepare("tiny_imagenet", "--root", tmp_path) == 0


def imagenet_archives(folder: Path, files: dict[str, bytes], truth: list[int]) -> None:
    """The three archives. Classes n1, n2 have the numbers 2, 1, as in ILSVRC2012 they are not in order."""
    folder.mkdir()
    tars = {}
    for name in ("n2", "n1"):
        members = {file.split("/")[-1]: c for file, c in files.items() if file.startswith(f"train/{name}/")}
        write_tar(folder / "inner.tar", members)
        tars[f"{name}.tar"] = (folder / "inner.tar").read_bytes()
    (folder / "inner.tar").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", tars)
    write_tar(
        folder / "ILSVRC2012_img_val.tar", {f.split("/")[-1]: c for f, c in files.items() if f.startswith("val/")}
    )
    meta = io.BytesIO()
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    savemat(meta, {"synsets": np.array([(1, "n2"), (2, "n1"), (3, "n99")], kinds)[:, None]})
    devkit = "ILSVRC2012_devkit_t12/data"
    lines = "".join(f"{number}\n" for number in truth).encode()
    write_tar(
        folder / "ILSVRC2012_devkit_t12.tar.gz",
        {f"{devkit}/meta.mat": meta.getvalue(), f"{devkit}/ILSVRC2012_validation_ground_truth.txt": lines},
        "w:gz",
    )


def test_imagenet_from_its_archives_is_imagenet_from_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"train/n{c}/n{c}_{k}.JPEG": picture(10 * c + k) for c in (1, 2) for k in range(3)}
    truth = [1, 2, 2, 1]
    val = {f"ILSVRC2012_val_{k:08d}.JPEG": picture(50 + k) for k in range(1, 5)}
    imagenet_archives(tmp_path / "archives", {**files, **{f"val/{name}": c for name, c in val.items()}}, truth)
    by_class = {f"val/n{3 - number}/{name}": c for number, (name, c) in zip(truth, val.items(), strict=True)}
    write_tree(tmp_path / "tree", {**files, **by_class})
    assert prepare("imagenet", "--root", tmp_path / "one", "--source", tmp_path / "archives") == 2
    assert "ILSVRC2012_img_train.tar: MD5 is" in capsys.readouterr().err
    assert prepare("imagenet", "--root", tmp_path / "one", "--source", tmp_path / "archives", "--part") == 0
    assert prepare("imagenet", "--root", tmp_path / "two", "--source", tmp_path / "tree", "--part") == 0
    same_images(load("imagenet", tmp_path / "one"), load("imagenet", tmp_path / "tree"))
    stores = [tmp_path / name / "imagenet-store" for name in ("one", "two")]
    contents = [{p.name: p.read_bytes() for p in store.iterdir()} for store in stores]
    assert contents[0] == contents[1], "the same store, to the byte"
    (tmp_path / "archives" / "ILSVRC2012_img_val.tar").unlink()
    assert prepare("imagenet", "--root", tmp_path / "three", "--source", tmp_path / "archives", "--part") == 2
    assert "holds neither ILSVRC2012_img_val.tar nor a folder train/" in capsys.readouterr().err


@pytest.mark.parametrize("test_split", ["test", "val", None])
def test_any_folder_with_or_without_a_test_split(test_split: str | None, tmp_path: Path) -> None:
    files = {f"train/{c}/{k}.jpg": picture(k) for c in ("cat", "dog") for k in range(3)}
    files |= {f"{test_split}/dog/x.png": encode(Image.new("L", (5, 7)), "PNG")} if test_split else {}
    write_tree(tmp_path, files)
    raw = load("folder", tmp_path)
    assert prepare("folder", "--root", tmp_path) == 0
    stored = load("folder", tmp_path)
    assert isinstance(stored.train, ShardImages)
    assert (stored.test is None) == (test_split is None)
    if test_split:
        same_images(raw, stored)
        assert stored.test.labels.tolist() == [1]
        write_tar(tmp_path / "x.tar", {f"some/folder/{name}": content for name, content in files.items()})
        assert prepare("folder", "--root", tmp_path / "tar", "--source", tmp_path / "x.tar") == 0
        same_images(raw, load("folder", tmp_path / "tar"))


def test_a_run_sees_the_same_batches_from_the_store(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"train/{c}/{k}.jpg": picture(k) for c in ("cat", "dog") for k in range(8)})
    before = first_batch(tmp_path)
    assert prepare("folder", "--root", tmp_path) == 0
    for ours, theirs in zip(first_batch(tmp_path), before, strict=True):
        assert torch.equal(ours, theirs)


def first_batch(root: Path) -> list[torch.Tensor]:
    data = DataConfig(dataset="folder", root=str(root))
    dataset = load_dataset(data)
    options = {"seed": 1, "global_batch": 12, "rank": 0, "world": 1, "parts": 1, "start_position": 30}
    loader = TrainLoader(dataset.train, data, dataset.mean, dataset.std, **options, device=torch.device("cpu"))
    batch = next(loader)
    loader.close()
    return [value for value in vars(batch).values() if value is not None]


def test_bad_images_are_stored_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"train/a/{k}.jpg": picture(k) for k in range(10)}
    files |= {"train/a/3.jpg": b"", "train/a/5.jpg": picture(5)[:-60]}
    write_tree(tmp_path, files)
    assert prepare("folder", "--root", tmp_path) == 0
    out = capsys.readouterr().out
    assert "2 images cannot be read; training stops at once, unless data.on_unreadable=replace" in out
    assert "train/a/3.jpg: is no readable image (the file is empty)" in out
    with pytest.raises(ValueError, match=r"000000003.jpg \(train/a/3.jpg\): is no readable image .*1 more"):
        load("folder", tmp_path)
    replacing = DataConfig(
        dataset="folder", root=str(tmp_path), on_unreadable="replace", unreadable_limit=0.2, resident_mib=0
    )
    images = load_dataset(replacing).train
    assert np.flatnonzero(images.heights == 0).tolist() == [3, 5]
    assert images.content(5) == files["train/a/5.jpg"], "stored as it was"


@pytest.mark.parametrize("stored", [False, True])
def test_check_names_all_bad_images(stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"train/a/{k}.jpg": picture(k) for k in range(10)}
    files |= {"train/a/3.jpg": b"", "train/a/5.jpg": picture(5)[:-60], "train/a/7.jpg": b"text"}
    files |= {"val/a/grey.png": encode(Image.new("L", (5, 7)), "PNG"), "val/a/bad.png": b"\x89PNG"}
    write_tree(tmp_path, files)
    if stored:
        assert prepare("folder", "--root", tmp_path) == 0
        capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert prepare("folder", "--root", tmp_path, "--check") == 2
    found = capsys.readouterr()
    lines = found.out.splitlines()
    assert [line.split(": ")[1] for line in lines[:4]] == [*(f"train/a/{k}.jpg" for k in (3, 5, 7)), "val/a/bad.png"]
    assert lines[4:] == ["12 images checked, 8 can be decoded", "  1 grayscale"]
    assert "4 images cannot be decoded; repair or remove them" in found.err
    assert sorted(tmp_path.rglob("*")) == before
    if stored:
        tar = tmp_path / "folder-store" / "train-00000.tar"
        content = bytearray(tar.read_bytes())
        content[600] ^= 1
        tar.write_bytes(content)
        assert prepare("folder", "--root", tmp_path, "--check") == 2
        assert "train-00000.tar: has changed since it was made" in capsys.readouterr().out


def test_names_that_are_not_utf_8_are_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(picture(0))
    (folder / os.fsdecode(b"caf\xe9 2.jpg")).write_bytes(b"")
    assert prepare("folder", "--root", tmp_path) == 0
    assert prepare("folder", "--root", tmp_path, "--check") == 2
    assert r"train: train/a/caf\udce9 2.jpg: is no readable image" in capsys.readouterr().out


def test_what_a_terminal_cannot_show_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "日本", {"train/a/1.jpg": picture(0)})
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert prepare("folder", "--root", tmp_path / "日本") == 0
    terminal.seek(0)
    assert r"\u65e5\u672c/folder-store: 1 train images" in terminal.read()


def test_shards_of_others_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": picture(0), "a.cls": b"0", "b.jpg": b"text", "b.cls": b"0"})
    assert prepare("webdataset", "--root", tmp_path, "--check") == 2
    assert "0.tar, b.jpg: is no readable image (not an image)" in capsys.readouterr().out


def test_a_good_set_is_checked_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {f"train/a/{k}.jpg": picture(k) for k in range(5)})
    assert prepare("folder", "--root", tmp_path, "--check") == 0
    assert capsys.readouterr().out == "5 images checked, 5 can be decoded\n"


def test_preparing_twice_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {"train/a/0.jpg": picture(0)})
    assert prepare("folder", "--root", tmp_path) == 0
    assert prepare("folder", "--root", tmp_path) == 0
    assert "is there already: 1 train images, 1 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder", "--source", "/nowhere"], "--source /nowhere: does not exist"),
        (["cifar10"], "found neither cifar-10-batches-py/ nor cifar-10-python.tar.gz"),
        (["imagenet"], "holds neither ILSVRC2012_img_train.tar nor a folder train/; download the archives"),
        (["webdataset"], "webdataset: shards are trained from as they are"),
        (["folder"], "has no folder train/"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(*arguments, "--root", tmp_path) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is left of a mistake"


def test_counts_of_a_class_are_compared() -> None:
    full = {f"class {k}": 5_000 for k in range(10)}
    assert check_counts("cifar10", "train", full, part=False) is None
    assert check_counts("folder", "train", {"a": 1}, part=False) is None
    with pytest.raises(ValueError, match=r"class class 3 has 4,999 images, officially 5,000; .* give --part"):
        check_counts("cifar10", "train", {**full, "class 3": 4_999}, part=False)
    many = {f"n{k}": 1_281 for k in range(1_000)}
    with pytest.raises(ValueError, match=r"imagenet, train split: 1,281,000 images, officially 1,281,167"):
        check_counts("imagenet", "train", many, part=False)
    assert check_counts("imagenet", "train", {"n1": 1_300}, part=True) == "train: 1 classes, officially 1,000"


def test_what_was_verified_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, notes = tmp_path / "x.tar", tmp_path / "verified.json"
    path.write_bytes(b"content")
    archive = Archive("x.tar", hashlib.md5(b"content").hexdigest())
    verify(path, archive, notes)
    monkeypatch.setattr(official, "md5_of", lambda *_: "read again")
    verify(path, archive, notes)
    path.write_bytes(b"content!")
    with pytest.raises(ValueError, match="MD5 is read again"):
        verify(path, archive, notes)
    with pytest.raises(ValueError, match="MD5 is read again"):
        verify(path, replace(archive, md5="0"), notes)


def test_help_and_mistakes_do_not_import_torch() -> None:
    code = (
        "import sys; from soda_fast.cli import main\n"
        "import soda_fast.store.shard, soda_fast.store.workers, soda_fast.store.tar_index\n"
        "try: main(['prepare', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['prepare', 'cifar10', '--url', 'x']) == 2\n"
        "assert 'torch' not in sys.modules, 'imports torch'"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert "--download" in found.stdout


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a worker process was killed"):
        workers.run(killed, [1], 1, "dying", 1)


def killed(task: int, advance: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
