"""WebP, BMP and TIFF beside JPEG and PNG: read alike by every backend; other formats are refused, not passed over."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.cli import main
from soda_fast.config.schema import DataConfig
from soda_fast.data import TrainLoader, load_dataset
from soda_fast.data.executor import dali_is_installed
from soda_fast.store.pictures import PictureError, decode, inspect
from tests.data.pictures import clouds, encode

FORMATS = {"webp": ("WEBP", {"lossless": True}), "bmp": ("BMP", {}), "tiff": ("TIFF", {"compression": "tiff_lzw"})}
BACKENDS = ["torchvision", "batched", *(["dali"] if dali_is_installed() else [])]


def picture(number: int) -> Image.Image:
    return Image.fromarray(clouds(np.random.default_rng(number), 20, 26))


def tree(root: Path, suffix: str, kind: str, options: dict[str, object]) -> Path:
    for number in range(6):
        path = root / "train" / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(number), kind, **options))
    return root


def views(root: Path, backend: str, dataset: str = "folder") -> list[torch.Tensor]:
    resident = 64 if backend == "batched" else 0
    data = DataConfig(
        dataset=dataset, root=str(root), backend=backend, resident_mib=resident, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    train = load_dataset(data).train
    options = {"seed": 1, "global_batch": 6, "rank": 0, "world": 1, "parts": 1, "start_position": 0}
    loader = TrainLoader(train, data, (0.5,) * 3, (0.2,) * 3, **options, device=torch.device("cpu"))
    batch = next(loader)
    loader.close()
    return [batch.source, batch.target, batch.label]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_pixels_in_any_format_are_the_same_views(backend: str, tmp_path: Path) -> None:
    expected = views(tree(tmp_path / "png", "png", "PNG", {}), backend)
    for suffix, (kind, options) in FORMATS.items():
        found = views(tree(tmp_path / suffix, suffix, kind, options), backend)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), suffix


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_store_keeps_their_bytes(suffix: str, tmp_path: Path) -> None:
    root = tree(tmp_path, suffix, *FORMATS[suffix])
    before = views(root, "torchvision")
    assert main(["prepare", "folder", "--root", str(root), "--processes", "1"]) == 0
    (shard,) = (root / "folder-store").glob("*.tar")
    with tarfile.open(shard) as archive:
        names = archive.getnames()
        first = archive.extractfile(names[0])
        assert first is not None
        assert first.read() == (root / "train" / "a" / f"0.{suffix}").read_bytes()
    ending = {"tiff": "tif"}.get(suffix, suffix)
    assert {Path(name).suffix for name in names} == {f".{ending}", ".cls"}
    assert all(torch.equal(a, b) for a, b in zip(views(root, "torchvision"), before, strict=True))
    # The shards of a store are WebDataset shards.
    (tmp_path / "shards").mkdir()
    shard.rename(tmp_path / "shards" / "train-0.tar")
    found = views(tmp_path / "shards", "torchvision", "webdataset")
    assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True))


def several(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(0).save(buffer, kind, save_all=True, append_images=[picture(1), picture(2)])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_several_pictures_in_a_file_are_refused(kind: str) -> None:
    assert "holds 3 pictures; keep one" in str(inspect(several(kind)).cause)


def test_grey_levels_of_a_tiff() -> None:
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 129
    assert (decode(encode(Image.fromarray(grey), "TIFF"))[..., 1] == grey >> 8).all()
    for deep in (grey.astype(np.int32), grey.astype(np.float32)):
        with pytest.raises(PictureError, match="convert it to 8-bit RGB"):
            decode(encode(Image.fromarray(deep), "TIFF"))


def test_formats_that_are_not_read_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tree(tmp_path / "tree", "png", "PNG", {})
    for number in range(5):
        (root / "train" / "b" / f"{number}.GIF").write_bytes(encode(picture(number), "GIF"))
    said = r"5 images of formats that are not read \(0.GIF, 1.GIF, 2.GIF and 2 more\); convert them to PNG or JPEG"
    with pytest.raises(ValueError, match=rf"train/b: {said}"):
        views(root, "torchvision")
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(root).as_posix())
    assert main(["prepare", "folder", "--root", str(tmp_path / "out"), "--source", str(tmp_path / "tree.zip")]) == 2
    assert "tree.zip: train/: 5 images of formats that are not read (b/0.GIF, " in capsys.readouterr().err


def test_a_shard_may_hold_other_pictures_beside_those_that_are_read(tmp_path: Path) -> None:
    files = {"1.png": encode(picture(1), "PNG"), "1.gif": b"a preview", "1.json": json.dumps({"label": 0}).encode()}
    write_shard(tmp_path / "train-0.tar", files)
    assert len(load_dataset(DataConfig(dataset="webdataset", root=str(tmp_path))).train) == 1
    write_shard(tmp_path / "train-1.tar", {"2.gif": b"a picture", "2.cls": b"0"})
    with pytest.raises(ValueError, match=r"train-1.tar: 1 images of formats that are not read \(2.gif\)"):
        load_dataset(DataConfig(dataset="webdataset", root=str(tmp_path)))


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
