"""Training over bad images: counted, listed, stopped beyond the limit, the same after a resumption."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from spawn import run_in_processes
from training.tiny import BATCH, losses, read_metrics, run_tiny, tiny_tree

from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.train import train
from tests.data.pictures import clouds, encode


def images(root: Path, bad: dict[int, bytes]) -> Path:
    (root / "train" / "a").mkdir(parents=True)
    for number in range(24):
        content = encode(Image.fromarray(clouds(np.random.default_rng(number), 12, 15)), "JPEG")
        (root / "train" / "a" / f"{number:02}.jpg").write_bytes(bad.get(number, content))
    return root


def whole(number: int) -> bytes:
    return encode(Image.fromarray(clouds(np.random.default_rng(number), 12, 15)), "JPEG")


BAD = {3: b"", 4: whole(4)[:-60], 20: whole(20)[:-50]}


def tree(run: Path, root: Path, steps: int, **keys: object) -> dict[str, object]:
    made = tiny_tree(run, steps)
    made["data"] |= {"dataset": "folder", "root": str(root), "on_unreadable": "replace", "unreadable_limit": 0.2}
    made["data"] |= {"mean": [0.5] * 3, "std": [0.2] * 3, "resident_mib": 0, **keys}
    return made


def test_replaced_images_are_counted_and_listed(tmp_path: Path) -> None:
    root = images(tmp_path / "images", BAD)
    metrics = run_tiny(tree(tmp_path / "run", root, steps=4))
    counts = [line["replaced_images"] for line in metrics if "replaced_images" in line]
    assert len(counts) == 4
    assert counts[-1] == 3
    head, *rows = (tmp_path / "run" / "unreadable.tsv").read_text().splitlines()
    assert head == "index\tby\tcause\tstand-in"
    assert [row.split("\t")[:2] for row in rows] == [["3", "5"], ["4", "5"], ["20", "21"]]
    assert "03.jpg: is no readable image (the file is empty)" in rows[0]
    assert "truncated" in rows[1]
    assert rows[2].endswith("21.jpg")


def test_a_list_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / ".unreadable.tsv.tmp").mkdir(parents=True)
    metrics = run_tiny(tree(tmp_path / "run", images(tmp_path / "images", BAD), steps=4))
    assert [line["replaced_images"] for line in metrics if "replaced_images" in line][-1] == 3
    assert capsys.readouterr().out.count("warning: unreadable.tsv could not be written (Is a directory)") == 1


def test_the_stand_ins_are_what_is_trained_on(tmp_path: Path) -> None:
    """A set with stand-ins gives the losses of a set in which they lie in the bad ones' places."""
    bad = images(tmp_path / "bad", BAD)
    mended = images(tmp_path / "mended", {3: whole(5), 4: whole(5), 20: whole(21)})
    run_tiny(tree(tmp_path / "one", bad, steps=4))
    run_tiny(tree(tmp_path / "two", mended, steps=4))
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_resident_images_are_replaced_by_the_same(tmp_path: Path) -> None:
    root = images(tmp_path / "images", BAD)
    for run, resident_mib in (("one", 0), ("two", 1)):
        # Pillow resizes both; DALI, which reads files that are not resident, would differ by a grey level.
        run_tiny(tree(tmp_path / run, root, steps=4, resident_mib=resident_mib, backend="torchvision"))
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert (tmp_path / "one" / "unreadable.tsv").read_text() == (tmp_path / "two" / "unreadable.tsv").read_text()
    assert list(root.glob(".soda-fast-folder-train-pixels-*"))


def test_a_resumed_run_goes_on_with_the_same_images(tmp_path: Path) -> None:
    root = images(tmp_path / "images", BAD)
    run_tiny(tree(tmp_path / "whole", root, steps=5))
    run_tiny(tree(tmp_path / "parts", root, steps=2))
    run_tiny(tree(tmp_path / "parts", root, steps=5))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert (tmp_path / "parts" / "unreadable.tsv").read_text() == (tmp_path / "whole" / "unreadable.tsv").read_text()


def train_tree(made: dict[str, object]) -> None:
    train(config_from_tree(made))


def test_two_processes_replace_the_same_and_write_one_list(tmp_path: Path) -> None:
    root = images(tmp_path / "images", BAD)
    run_tiny(tree(tmp_path / "one", root, steps=3))
    run_in_processes(train_tree, 2, tree(tmp_path / "two", root, steps=3))
    assert (tmp_path / "one" / "unreadable.tsv").read_text() == (tmp_path / "two" / "unreadable.tsv").read_text()
    for images_seen, loss in losses(tmp_path / "one").items():
        assert losses(tmp_path / "two")[images_seen] == pytest.approx(loss, rel=1e-4)


def test_beyond_the_limit_the_run_stops(tmp_path: Path) -> None:
    root = images(tmp_path / "images", {3: whole(3)[:-60], 4: whole(4)[:-60], 20: whole(20)[:-50]})
    with pytest.raises(ValueError, match=r"data.unreadable_limit is 0.1, but 3 of 24 train images cannot be read"):
        train(config_from_tree(tree(tmp_path / "run", root, steps=4, unreadable_limit=0.1)))
    assert len((tmp_path / "run" / "unreadable.tsv").read_text().splitlines()) == 4


def test_without_bad_images_there_is_no_list(tmp_path: Path) -> None:
    root = images(tmp_path / "images", {})
    run_tiny(tree(tmp_path / "run", root, steps=1))
    assert read_metrics(tmp_path / "run")[0]["replaced_images"] == 0
    assert not (tmp_path / "run" / "unreadable.tsv").exists()
    assert BATCH == 12


def test_evaluation_and_pictures_count_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both kinds: no image at all, and one that only decoding finds to be cut off."""
    root = images(tmp_path / "images", BAD)
    (root / "test" / "a").mkdir(parents=True)
    for number in range(6):
        (root / "test" / "a" / f"{number}.jpg").write_bytes({1: b"", 4: whole(4)[:-60]}.get(number, whole(number)))
    keys = {"unreadable_limit": 0.5}
    run_tiny(tree(tmp_path / "run", root, steps=2, **keys))
    capsys.readouterr()
    run = str(tmp_path / "run")
    assert main(["evaluate", run, "evaluation.protocols=[knn-dino]", "--plot"]) == 0
    said = capsys.readouterr().out
    assert "3 train images cannot be read, and others of their classes stand in for them" in said
    assert "2 test images cannot be read" in said
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["replaced_images"] == {"train": 3, "test": 2}
    assert np.asarray(Image.open(tmp_path / "run" / "plots" / "evaluation" / "neighbours.png")).std() > 10
    assert main(["sample", run, "--images", "6", "--steps", "1"]) == 0
    # What is known to be no image is not chosen.
    assert "1 test images cannot be read" in capsys.readouterr().out


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    run, root = tmp_path / "run", images(tmp_path / "images", {})
    run.mkdir()
    (run / "unreadable.tsv").write_text("index\tby\tcause\tstand-in\n1x\t2\tgone\t3\n")
    with pytest.raises(ValueError, match=r"unreadable\.tsv: is damaged .*remove it"):
        run_tiny(tree(run, root, steps=1))
