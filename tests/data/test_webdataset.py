"""Training from WebDataset shards that somebody else made."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.config.schema import DataConfig
from soda_fast.data import Dataset, TrainLoader, load_dataset
from soda_fast.data import cache as cache_module
from soda_fast.store.layout import ROW
from tests.data.pictures import clouds, encode


def picture(number: int, kind: str = "JPEG") -> bytes:
    return encode(Image.fromarray(clouds(np.random.default_rng(number), 20 + number, 26)), kind)


def shard(path: Path, *members: tuple[str, bytes], mode: str = "w:") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def load(root: Path, **keys: object) -> Dataset:
    data = DataConfig(dataset="webdataset", root=str(root), mean=(0.5,) * 3, std=(0.2,) * 3, resident_mib=0, **keys)
    return load_dataset(data)


def sample(number: int, label: int) -> list[tuple[str, bytes]]:
    return [(f"s{number}.jpg", picture(number)), (f"s{number}.cls", str(label).encode())]


def test_images_and_labels_of_every_form(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "b.tar", *sample(5, 2))
    shard(
        tmp_path / "train" / "a.tar",
        ("deep/1.cls", b"1\n"),
        ("deep/1.JPG", picture(1)),
        ("2.png", picture(2, "PNG")),
        ("2.json", json.dumps({"label": 0, "caption": "x"}).encode()),
        ("3.jpeg", picture(3)),
        ("3.cls", b"1"),
        ("3.txt", b"a caption"),
        ("3.json", b'{"caption": "no label here"}'),
        ("a" * 150 + ".jpg", picture(4)),
        ("a" * 150 + ".cls", b"0"),
    )
    shard(tmp_path / "val" / "x.tar", *sample(6, 1))
    found = load(tmp_path)
    assert found.train.labels.tolist() == [1, 0, 1, 0, 2]
    assert found.class_names == ("0", "1", "2")
    assert found.test.labels.tolist() == [1]
    assert found.train.heights.tolist() == [21, 22, 23, 24, 25]
    contents = [picture(1), picture(2, "PNG"), picture(3), picture(4), picture(5)]
    for index, content in enumerate(contents):
        assert found.train.content(index) == content
    assert found.train.describe(0).endswith("a.tar, deep/1.JPG")


@pytest.mark.parametrize("names", [("train-0.tar", "test-0.tar"), ("0.tar", None)])
def test_shards_are_found_by_their_names(names: tuple[str, str | None], tmp_path: Path) -> None:
    for number, name in enumerate(name for name in names if name):
        shard(tmp_path / name, *sample(number, 0))
    found = load(tmp_path)
    assert (len(found.train), found.test is None) == (1, names[1] is None)


def test_the_index_is_made_once_and_again_when_shards_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "0.tar", *sample(0, 0))
    load(tmp_path)
    (cache,) = tmp_path.glob(".soda-fast-train-index-*")
    assert np.load(cache / "index.npy", mmap_mode="r").dtype == ROW
    made = cache.stat().st_mtime_ns
    load(tmp_path)
    assert cache.stat().st_mtime_ns == made
    shard(tmp_path / "0.tar", *sample(0, 0), *sample(1, 0))
    assert len(load(tmp_path).train) == 2
    assert len(list(tmp_path.glob(".soda-fast-train-index-*"))) == 1
    monkeypatch.setattr(cache_module.os, "access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(load(tmp_path).train) == 2
    assert len(list((tmp_path / "cache").rglob(".soda-fast-train-index-*"))) == 1


def test_training_from_shards(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", *(member for k in range(9) for member in sample(k, k % 3)))
    data = DataConfig(dataset="webdataset", root=str(tmp_path))
    dataset = load_dataset(data)
    options = {"seed": 1, "global_batch": 9, "rank": 0, "world": 1, "parts": 1, "start_position": 0}
    loader = TrainLoader(dataset.train, data, dataset.mean, dataset.std, **options, device=torch.device("cpu"))
    batch = next(loader)
    loader.close()
    assert sorted(batch.index.tolist()) == list(range(9))
    assert (batch.label == batch.index % 3).all()


def test_bad_images_in_shards_are_named_and_replaced(tmp_path: Path) -> None:
    members = [member for k in range(9) for member in sample(k, 0)]
    members[4] = ("s2.jpg", picture(2)[:-50])
    shard(tmp_path / "0.tar", *members)
    with pytest.raises(ValueError, match=r"0.tar, s2.jpg: cannot be decoded"):
        load(tmp_path)
    assert load(tmp_path, on_unreadable="replace", unreadable_limit=0.2).train.heights[2] == 0


@pytest.mark.parametrize(
    ("members", "mode", "words"),
    [
        ([("1.jpg", b"x")], "w:", r"0.tar: sample 1 has no label in a .cls or .json"),
        ([("1.jpg", b"x"), ("1.cls", b"cat")], "w:", r"0.tar, 1.cls: holds no class's number; labels are integers"),
        ([("1.jpg", b"x"), ("1.cls", b"-1")], "w:", r"0.tar, 1.cls: holds -1; labels are integers from 0"),
        (
            [("1.jpg", b"x"), ("1.json", b'{"label": 1048576}')],
            "w:",
            r"the largest label is 1048576, and train holds 1 images: labels are classes' numbers; if these are ids, ",
        ),
        ([("1.jpg", b"x"), ("1.cls", b"2147483648")], "w:", r"1.cls: holds 2147483648; labels are .*, below 2\*\*31"),
        ([("1.jpg", b"x"), ("1.png", b"x"), ("1.cls", b"0")], "w:", r"sample 1 has two images or comes twice"),
        ([("1.txt", b"x")], "w:", r"its shards hold no .jpg, .jpeg, .png, .webp"),
        ([("1.jpg", b"x"), ("1.cls", b"0")], "w:gz", r"0.tar: is no whole uncompressed tar"),
    ],
)
def test_shards_that_cannot_be_used(members: list[tuple[str, bytes]], mode: str, words: str, tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", *members, mode=mode)
    with pytest.raises(ValueError, match=words):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"holds no train/\*.tar, no train-\*.tar and no \*.tar"):
        load(_empty(tmp_path))


def _empty(root: Path) -> Path:
    (root / "empty").mkdir()
    return root / "empty"
