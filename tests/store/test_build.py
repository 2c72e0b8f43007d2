"""Stores: lossless, the same bytes every time, whole or not there."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soda_fast.data.shard_images import load_store
from soda_fast.store import build
from soda_fast.store.build import Contents, build_store, construction_site, plan
from soda_fast.store.entries import Entry, Pixels, file_entry
from soda_fast.store.layout import ROW, Manifest, damage, find_store
from soda_fast.store.shard import write_shard
from tests.data.pictures import clouds, encode, needs_dali

ROOT = Path(__file__).parents[2]


def tree(root: Path, count: int, seed: int = 0) -> Path:
    """A folder of two classes."""
    generator = np.random.default_rng(seed)
    contents = [encode(Image.fromarray(clouds(generator, 9 + k, 12)), "PNG" if k % 3 else "JPEG") for k in range(12)]
    for number in range(count):
        path = root / "train" / "ab"[number * 2 // count] / f"{number:05d}.{'png' if number % 12 % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % 12] + b"\0" * (number // 12 % 5))
    return root


def contents_of(root: Path, dataset: str = "folder") -> Contents:
    paths = sorted((root / "train").rglob("*.*"))
    entries = [file_entry(path.relative_to(root).as_posix(), int(path.parent.name == "b"), str(path)) for path in paths]
    return Contents(dataset, ("a", "b"), {"train": entries})


def make(contents: Contents, root: Path, processes: int = 1) -> Path:
    final = root / f"{contents.dataset}-store"
    with construction_site(root, contents.dataset) as partial:
        build_store(contents, partial, final, processes)
    return final


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SHARD_IMAGES", 20)


@pytest.mark.usefixtures("small_shards")
def test_every_byte_label_and_name_comes_back(tmp_path: Path) -> None:
    contents = contents_of(tree(tmp_path / "tree", 50))
    folder = make(contents, tmp_path, processes=2)
    train, test, names = load_store(folder)
    assert (test, names, len(train.shards)) == (None, ("a", "b"), 3)
    for index, entry in enumerate(contents.splits["train"]):
        original = entry.origin.read()
        assert train.content(index) == original
        assert train.labels[index] == entry.label
        assert (train.widths[index], train.heights[index]) == Image.open(io.BytesIO(original)).size
        assert f"train-{index // 20:05d}.tar, {index:09d}." in train.describe(index)
        assert train.describe(index).endswith(f"({entry.name})")
    assert isinstance(train.index, np.memmap)
    some = train.subset(np.array([7, 3])).subset(np.array([1]))
    assert some.content(0) == train.content(3)
    assert some.describe(0) == train.describe(3)


@pytest.mark.usefixtures("small_shards")
def test_shards_are_tars_of_key_jpg_and_key_cls(tmp_path: Path) -> None:
    contents = contents_of(tree(tmp_path / "tree", 30))
    folder = make(contents, tmp_path)
    with tarfile.open(folder / "train-00001.tar", "r:") as tar:
        infos = tar.getmembers()
        assert [info.name for info in infos[:4]] == ["000000020.png", "000000020.cls", "000000021.jpg", "000000021.cls"]
        assert {(info.mtime, info.uid, info.uname, info.mode) for info in infos} == {(0, 0, "", 0o644)}
        assert tar.extractfile("000000021.cls").read() == b"1"
        assert tar.extractfile("000000021.jpg").read() == contents.splits["train"][21].origin.read()


@needs_dali
def test_dalis_webdataset_reader_opens_a_store(tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    contents = contents_of(tree(tmp_path / "tree", 24))
    folder = make(contents, tmp_path)

    @pipeline_def(batch_size=24, num_threads=1, device_id=None)
    def pipeline() -> tuple[object, ...]:
        return tuple(fn.readers.webdataset(paths=[str(folder / "train-00000.tar")], ext=["jpg;png", "cls"]))

    reader = pipeline()
    reader.build()
    images, labels = reader.run()
    for index, entry in enumerate(contents.splits["train"]):
        assert bytes(images.at(index)) == entry.origin.read()
        assert bytes(labels.at(index)) == str(entry.label).encode()


def test_pixels_are_kept_exactly(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    entries = [Entry(f"image {k}", k % 2, 3072, 0, Pixels(image)) for k, image in enumerate(pixels)]
    train, _, _ = load_store(make(Contents("cifar10", ("a", "b"), {"train": entries}), tmp_path))
    np.testing.assert_array_equal(np.stack([train.decode(index) for index in range(30)]), pixels)


@pytest.mark.usefixtures("small_shards")
def test_finished_shards_are_kept_and_damaged_ones_made_again(tmp_path: Path) -> None:
    contents = contents_of(tree(tmp_path / "tree", 90))
    expected = files_of(make(contents, tmp_path / "once"))
    with construction_site(tmp_path, "folder") as partial:
        build._fill(partial, contents, plan(contents, partial), 1)
    assert find_store(tmp_path, "folder") is None, "shards without a manifest are no store"
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("train-*.tar")}
    content = bytearray((partial / "train-00001.tar").read_bytes())
    content[700] ^= 1
    (partial / "train-00001.tar").write_bytes(content)
    (partial / "train-00002.tar").write_bytes(b"short")
    (partial / "parts" / "train-00003.tar.json").unlink()
    (partial / "parts" / "train-00004.tar.json").write_text("{}")
    (partial / ".train-00009.tar.77.tmp").write_bytes(b"of a killed worker")
    (partial / "train-00009.tar").write_bytes(b"of an earlier plan")
    folder = make(contents, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*.tar")}
    assert {name for name in after if after[name] == before.get(name)} == {"train-00000.tar"}
    assert files_of(folder) == expected
    assert not partial.exists()


@pytest.mark.usefixtures("small_shards")
def test_a_source_that_changed_is_stored_again(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", 60)
    with construction_site(tmp_path, "folder") as partial:
        build._fill(partial, contents_of(root), plan(contents_of(root), partial), 1)
    changed = root / "train" / "a" / "00021.jpg"
    changed.write_bytes(changed.read_bytes() + b"!")
    train, _, _ = load_store(make(contents_of(root), tmp_path))
    assert train.content(21).endswith(b"!")


@pytest.mark.usefixtures("small_shards")
def test_another_sources_half_made_store_is_not_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where names, labels, sizes and counts are the same: of the same files at another place it is."""
    first = replace(contents_of(tree(tmp_path / "one", 60)), source="one")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")  # times included
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    other, moved = (replace(contents_of(tmp_path / name), source=name) for name in ("two", "moved"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_leave_only", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(first, tmp_path)
    with pytest.raises(ValueError, match="was begun from one, and two holds other images; finish it from there, or"):
        make(other, tmp_path)
    monkeypatch.setattr(build, "_fill", interrupted)  # everything is there already
    folder = make(moved, tmp_path)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy", ".tar", ".tar", ".tar", ".txt"]


def test_an_attempt_that_made_nothing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(ValueError, match="free space"):
        make(contents_of(tree(tmp_path / "tree", 10)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    contents = contents_of(tree(tmp_path / "tree", 10))
    with construction_site(tmp_path, "folder") as partial:
        with pytest.raises(ValueError, match="another process is making this store"):
            construction_site(tmp_path, "folder").__enter__()
        build_store(contents, partial, tmp_path / "folder-store", 1)
    assert len(load_store(tmp_path / "folder-store")[0]) == 10, "the first is not disturbed"


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = contents_of(tree(tmp_path / "tree", 10))
    usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) + 10_000)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"has 0.07 GB of free space, .* are needed; make room"):
        make(contents, tmp_path)
    assert not list(tmp_path.rglob("*.tar"))


def test_a_disk_that_fills_up_is_told_with_the_file(tmp_path: Path) -> None:
    (task,) = plan(contents_of(tree(tmp_path / "tree", 10)), tmp_path)
    (tmp_path / f".{task.file}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*train-00000\.tar"):
        write_shard(task, lambda: None)


def test_a_source_that_vanishes_is_named(tmp_path: Path) -> None:
    contents = contents_of(tree(tmp_path / "tree", 10))
    (tmp_path / "tree" / "train" / "b" / "00007.png").unlink()
    with pytest.raises(OSError, match=r"00007.png"):
        make(contents, tmp_path)
    assert find_store(tmp_path, "folder") is None


def test_shards_end_by_count_or_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shards(*sizes: int) -> list[int]:
        entries = [Entry("", 0, size, 0, Pixels(np.zeros((1, 1, 3), np.uint8))) for size in sizes]
        return [len(task.entries) for task in plan(Contents("folder", ("a",), {"train": entries}), tmp_path)]

    monkeypatch.setattr(build, "SHARD_IMAGES", 3)
    monkeypatch.setattr(build, "SHARD_BYTES", 10_000)
    assert shards(1, 1, 1, 1) == [3, 1]
    assert shards(6_000, 6_000, 50_000, 1) == [1, 1, 1, 1]
    assert shards() == [0]


def test_a_store_of_another_data_set_or_with_missing_files_is_refused(tmp_path: Path) -> None:
    folder = make(contents_of(tree(tmp_path / "tree", 10)), tmp_path)
    assert find_store(folder, "folder") == folder
    with pytest.raises(ValueError, match=r"is a store of folder, not of imagenet; set data.dataset=folder"):
        find_store(folder, "imagenet")
    tar = folder / "train-00000.tar"
    assert damage(folder, Manifest.read(folder).splits["train"].shards[0]) is None
    tar.write_bytes(tar.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-00000.tar: has .* bytes, had .*prepare the data set again"):
        load_store(folder)
    tar.unlink()
    with pytest.raises(ValueError, match=r"train-00000.tar: is missing"):
        load_store(folder)
    for content in ("{}", "[" * 100_000):
        (folder / "store.json").write_text(content)
        with pytest.raises(ValueError, match=r"store.json: is no manifest of a store"):
            load_store(folder)


@pytest.mark.parametrize("place", [0, 40, -24])
def test_an_index_with_a_flipped_bit_is_refused(place: int, tmp_path: Path) -> None:
    """In what begins like a pickle then, in its description, in a label: images would come under other labels."""
    folder = make(contents_of(tree(tmp_path / "tree", 10)), tmp_path)
    path = folder / "train.index.npy"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x13
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train.index.npy: has changed since it was made; remove the folder"):
        load_store(folder)


def test_an_index_is_plain_numbers() -> None:
    assert ROW.itemsize == 48
    assert not ROW.hasobject


KILLED = """
import sys, time
from pathlib import Path
from soda_fast.store import build, shard
build.SHARD_IMAGES = 50
from soda_fast.cli import main
inspect, parts = shard.inspect, Path(sys.argv[1]) / ".folder-store.partial" / "parts"
def inspect_until_enough(content):
    while len(list(parts.glob("*.json"))) >= int(sys.argv[3]):
        time.sleep(0.01)
    return inspect(content)
shard.inspect = inspect_until_enough
if __name__ == "__main__":
    sys.exit(main(["prepare", "folder", "--root", sys.argv[1], "--source", sys.argv[2], "--processes", "2"]))
"""


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", 2_000)
    (tmp_path / "run.py").write_text(KILLED)
    root, partial = tmp_path / "root", tmp_path / "root" / ".folder-store.partial"

    def start(root: Path, shards: int = 1000) -> subprocess.Popen[bytes]:
        """It waits in the middle of a shard when it has so many, for who kills it late."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), str(root), str(source), str(shards)],
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    moments: list[tuple[int, Callable[[], bool]]] = [
        (2, partial.exists),
        (4, lambda: any(partial.glob(".train-*.tmp"))),
        (9, lambda: len(list(partial.glob("train-*.tar"))) >= 7),
        (22, lambda: len(list(partial.glob("parts/*.json"))) >= 20),
    ]
    kept = 0
    for shards, moment in moments:
        process = start(root, shards)
        while not moment():
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert find_store(root, "folder") is None
        assert [path.name for path in root.iterdir()] == [partial.name], "nothing looks finished"
        now = len(list(partial.glob("parts/*.json")))
        assert now >= kept
        kept = now
    assert kept >= 20
    assert start(root).wait() == 0
    assert start(tmp_path / "once").wait() == 0
    assert [path.name for path in root.iterdir()] == ["folder-store"]
    assert files_of(root) == files_of(tmp_path / "once")
