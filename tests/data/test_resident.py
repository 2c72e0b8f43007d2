"""Small sets decoded once: the same pixels, one copy for all processes, made again when a file changes."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from data.test_cifar import packed
from PIL import Image

from soda_fast.cli import main
from soda_fast.config.schema import DataConfig
from soda_fast.data import cifar, load_dataset, resident
from soda_fast.data.image_set import FileImages, ImageSet, UnreadableImage
from soda_fast.data.resident import ResidentImages, make_resident
from soda_fast.store import build
from tests.data.pictures import clouds, encode, file_set

ROOT = Path(__file__).parents[2]


def images_in(folder: Path, count: int = 20, size: tuple[int, int] = (12, 15)) -> FileImages:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    return file_set(
        folder, {f"{k:02}.png": encode(Image.fromarray(clouds(generator, *size)), "PNG") for k in range(count)}
    )


def decoded(images: ImageSet, root: Path, most: int = 1 << 20) -> ImageSet:
    return make_resident(images, root, "train", most, threads=2)


def test_pixels_names_and_subsets_are_those_of_the_files(tmp_path: Path) -> None:
    files = images_in(tmp_path)
    resident_set = decoded(files, tmp_path)
    assert isinstance(resident_set, ResidentImages)
    assert isinstance(resident_set.pixels, np.memmap)
    some = resident_set.subset(np.array([7, 3, 9])).subset(np.array([2, 0]))
    for images, rows in ((resident_set, range(20)), (some, (9, 7))):
        np.testing.assert_array_equal(images.take(np.arange(len(rows))), np.stack([files.decode(k) for k in rows]))
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(images.decode(place), files.decode(row))
            np.testing.assert_array_equal(images.read(place), files.decode(row))
            assert images.describe(place) == files.describe(row)
    assert some.pixels is resident_set.pixels, "a subset copies nothing"


def test_only_small_sets_of_one_size_are_decoded(tmp_path: Path) -> None:
    files = images_in(tmp_path)
    assert decoded(files, tmp_path, 20 * 12 * 15 * 3 - 1) is files
    assert isinstance(decoded(files, tmp_path, 20 * 12 * 15 * 3), ResidentImages)
    mixed = file_set(tmp_path, {"a.png": files.paths[0].read_bytes(), "b.png": encode(Image.new("RGB", (9, 9)), "PNG")})
    assert decoded(mixed, tmp_path) is mixed


def test_it_is_decoded_once_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, calls, decode = images_in(tmp_path), [], resident._decode
    monkeypatch.setattr(resident, "_decode", lambda *arguments: (calls.append(1), decode(*arguments)))
    threads = [threading.Thread(target=decoded, args=(files, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    files.paths[5].write_bytes(encode(Image.new("RGB", (15, 12), "red"), "PNG"))
    assert decoded(files, tmp_path).decode(5)[0, 0].tolist() == [255, 0, 0]
    assert len(calls) == 2
    assert len(list(tmp_path.glob(".soda-fast-train-pixels-*"))) == 1, "the outdated pixels are gone"


def test_an_interrupted_decoding_leaves_nothing_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, decode = images_in(tmp_path), resident._decode

    def interrupted(*arguments: object) -> None:
        decode(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(resident, "_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoded(files, tmp_path)
    monkeypatch.setattr(resident, "_decode", decode)
    assert not list(tmp_path.glob(".soda-fast-train-pixels-*"))
    np.testing.assert_array_equal(decoded(files, tmp_path).decode(3), files.decode(3))


def test_images_that_cannot_be_decoded_are_known(tmp_path: Path) -> None:
    files = images_in(tmp_path)
    files.paths[4].write_bytes(files.paths[4].read_bytes()[:-60])
    found = decoded(files, tmp_path)
    assert np.flatnonzero(found.heights == 0).tolist() == [4]
    with pytest.raises(UnreadableImage, match=r"04.png: cannot be decoded"):
        found.subset(np.array([3, 4])).decode(1)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) + 10_799)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"are needed; make room, or keep them encoded: data.resident_mib=0"):
        decoded(images_in(tmp_path), tmp_path)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: usage._replace(free=usage.free + 1))
    decoded(images_in(tmp_path), tmp_path)


def test_cifar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, pixels, labels = packed(tmp_path, "cifar10")
    monkeypatch.setitem(cifar.OFFICIAL, "cifar10", files)
    first = load_dataset(DataConfig(dataset="cifar10", root=str(tmp_path)))
    monkeypatch.setattr(resident, "load_cifar", None)
    again = load_dataset(DataConfig(dataset="cifar10", root=str(tmp_path)))
    for dataset in (first, again):
        border = len(dataset.train)
        np.testing.assert_array_equal(dataset.train.take(np.arange(border)), pixels[:border])
        np.testing.assert_array_equal(dataset.train.labels, labels[:border])
        np.testing.assert_array_equal(dataset.test.decode(3), pixels[border + 3])
        assert dataset.class_names[3] == "class 3"
        assert isinstance(dataset.train.pixels, np.memmap)
    some = again.train.subset(np.array([5, 2]))
    assert (some.describe(0), some.labels.tolist()) == ("cifar10 training image 5", labels[[5, 2]].tolist())
    assert some.pixels is again.train.pixels


def test_cifar_that_is_not_official_leaves_nothing(tmp_path: Path) -> None:
    packed(tmp_path, "cifar10")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="the official file's is"):
        load_dataset(DataConfig(dataset="cifar10", root=str(tmp_path)))
    assert [path for path in sorted(tmp_path.iterdir()) if path.suffix != ".lock"] == before


MAPPED = """
import sys
from soda_fast.cli import main
from soda_fast.config.schema import DataConfig
from soda_fast.data import load_dataset
pixels = load_dataset(DataConfig(dataset="folder", root=sys.argv[1])).train.pixels
int(pixels[:].max())
rows = open("/proc/self/smaps").read().split("pixels.npy")[1].split("VmFlags")[0].splitlines()
values = {row.split(":")[0]: int(row.split()[1]) for row in rows if row.endswith(" kB")}
print(values["Private_Dirty"], values["Anonymous"], values["Rss"])
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells whose memory it is")
def test_processes_hold_no_copy_of_their_own(tmp_path: Path) -> None:
    images_in(tmp_path / "train" / "a", 50, (64, 64))
    load_dataset(DataConfig(dataset="folder", root=str(tmp_path)))
    code = [sys.executable, "-c", MAPPED, str(tmp_path)]
    found = subprocess.run(code, capture_output=True, text=True, check=True)
    dirty, anonymous, resident_kib = map(int, found.stdout.split())
    assert (dirty, anonymous) == (0, 0)
    assert resident_kib >= 50 * 64 * 64 * 3 // 1024


def test_a_dry_run_decodes_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images_in(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "04.png").write_bytes(images_in(tmp_path / "other").paths[4].read_bytes()[:-60])
    keys = ["data.dataset=folder", f"data.root={tmp_path}", "perf.compile=false", "model.decoder.blocks=1"]
    assert main(["train", str(ROOT / "configs" / "demo_digits.yaml"), "--dry-run", *keys]) == 0
    assert "epochs of 20 images" in capsys.readouterr().out
    assert not list(tmp_path.glob(".soda-fast*"))


def test_the_spelling_of_the_root_decodes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, with a slash at its end, through a link: the same files."""
    images_in(tmp_path / "images" / "train" / "a")
    root = tmp_path / "images"
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    made = []
    for spelled in (str(root), "images", "images/", "./link", f"{root}/../images"):
        load_dataset(DataConfig(dataset="folder", root=spelled))
        made.append([(path.name, path.stat().st_mtime_ns) for path in sorted(root.glob(".soda-fast-*-pixels-*"))])
    assert len(made[0]) == 1
    assert made == made[:1] * 5


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n.", None])
@pytest.mark.parametrize("name", ["pixels.npy", "unreadable.npy"])
def test_damaged_pixels_are_told_with_their_folder(name: str, content: bytes | None, tmp_path: Path) -> None:
    """Emptied, a pickle, or cut short."""
    files = images_in(tmp_path)
    decoded(files, tmp_path)
    (path,) = tmp_path.glob(f".soda-fast-train-pixels-*/{name}")
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    if (name, content) == ("unreadable.npy", None):
        path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(ValueError, match=r"soda-fast-train-pixels-.* is damaged \(.*\); remove this folder") as told:
        decoded(files, tmp_path)
    assert "pickle" not in str(told.value)
    shutil.rmtree(path.parent)
    decoded(files, tmp_path)
