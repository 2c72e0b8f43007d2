"""Averages of other lengths from the command line and in Python: made, named in reports, refused in a sentence."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training.tiny import BATCH, run_tiny, tiny_tree

import soda_fast
from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.describe import describe
from soda_fast.training.average_files import Snapshot, read_snapshot, snapshot_path, snapshots, write_snapshot

STEPS = 16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("posthoc") / "run"
    run_tiny(tiny_tree(path, STEPS, ema_lengths=[0.05, 0.1]))
    return path


def test_evaluate_several_lengths(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(run), "--protocols", "knn-dino", "--baselines", "untrained"]
    assert main([*arguments, "--ema-length", "0.07,0.1,0.07"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if " z " in line] == [
        "ema-0.07",
        "ema-0.1",
        "untrained",
    ]
    report = json.loads((run / "evaluation.json").read_text())
    assert report["checkpoint"]["weights"] == "EMA of relative length 0.07, 0.1, made of snapshots"
    assert report["checkpoint"]["images_seen"] == STEPS * BATCH
    assert {result["encoder"] for result in report["results"]} == {"ema-0.07", "ema-0.1", "untrained"}


def test_images_are_made_by_the_average(run: Path) -> None:
    keys = ["evaluation.protocols=[reconstruction]", "evaluation.made_images=2", "sampling.steps=1"]
    assert main(["evaluate", str(run), *keys, "--ema-length", "0.07"]) == 0
    (measured, *_) = json.loads((run / "evaluation.json").read_text())["measures"]
    assert measured["encoder"] == "ema-0.07"
    assert measured["setting"]["made_by"].endswith("EMA of relative length 0.07, made of snapshots")


def test_pictures_are_made_with_the_average(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those of the usual one, which stay; under equal titles they differ."""
    monkeypatch.setattr("soda_fast.sample._title", lambda *_: "a title")
    for arguments in ([], ["--ema-length", "0.07"], ["--ema-length", "0.05"]):
        assert main(["sample", str(run), "--images", "1", "--steps", "1", *arguments]) == 0
    usual = run / "samples" / f"reconstruct-{STEPS * BATCH:012d}.png"
    made = [usual.with_name(f"{usual.stem}-ema-{length}.png") for length in (0.07, 0.05)]
    assert len({path.read_bytes() for path in (usual, *made)}) == 3


def test_export_and_load(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), str(tmp_path / "out"), "--ema-length", "0.07"]) == 0
    assert "the averaged weights (EMA length 0.07) of" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["ema_length"] == 0.07
    made, exported, usual = soda_fast.load(run, ema_length=0.07), soda_fast.load(tmp_path / "out"), soda_fast.load(run)
    for name, value in made.state_dict().items():
        assert torch.equal(value, exported.state_dict()[name]), name
    assert not torch.equal(made.encoder.fc.weight, usual.encoder.fc.weight)
    encoder, _ = soda_fast.load_encoder(run, ema_length=0.07)
    assert torch.equal(encoder.fc.weight, made.encoder.fc.weight)
    with pytest.raises(ValueError, match=r"exported folder, which holds one average"):
        soda_fast.load(tmp_path / "out", ema_length=0.07)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--ema-length", "0.01"],
            ["length of 0.01", "0.05, 0.1 from 16 moments", "ask for 0.03 to 0.23"],
        ),
        (["--ema-length", "0.05,0.1", "--protocols", "frechet"], ["frechet", "give one length"]),
        (["--ema-length", "0.05", "--encoder", "torchvision:resnet18"], ["--ema-length", "--encoder"]),
    ],
)
def test_mistakes(run: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), *arguments]) == 2
    told = capsys.readouterr().err
    for word in words:
        assert word in told


@pytest.mark.parametrize("length", ["0", "0.3", "nan", "long"])
def test_numbers_that_are_no_length(run: Path, length: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["export", str(run), "out"], ["sample", str(run)]):
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--ema-length", length])
        assert left.value.code == 2
        assert length in capsys.readouterr().err
    if length != "long":
        with pytest.raises(ValueError, match="out of range"):
            soda_fast.load(run, ema_length=float(length))


def test_a_run_with_one_average_and_few_snapshots(tmp_path: Path) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 2, ema_lengths=[0.05]))
    soda_fast.load(tmp_path / "run", ema_length=0.05)
    with pytest.raises(ValueError, match=r"length 0\.05 from 2 moments.*ask for 0\.05; two lengths in train"):
        soda_fast.load(tmp_path / "run", ema_length=0.1)


def test_a_run_without_averages(tmp_path: Path) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 1))
    with pytest.raises(ValueError, match=r"train\.ema_lengths is empty; train with train\.ema_lengths=\[0\.05, 0\.1\]"):
        soda_fast.load(tmp_path / "run", ema_length=0.1)


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 4, ema_lengths=[0.05, 0.1]))
    first = min((tmp_path / "run" / "averages").iterdir())
    content = first.read_bytes()
    for damaged in (content[:-4], b"", b"\xff" * 100):
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{first} is not a whole snapshot"):
            soda_fast.load(tmp_path / "run", ema_length=0.08)
    first.unlink()
    soda_fast.load(tmp_path / "run", ema_length=0.08)


def flip(path: Path, place: int, bit: int) -> bytes:
    """Turn a bit of a file around; its content before."""
    content = path.read_bytes()
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
    return content


def test_a_bit_that_has_changed_is_noticed(tmp_path: Path) -> None:
    """Anywhere in the header, and here and there in the tensors."""
    path = snapshot_path(tmp_path, 24, 0.05)
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b.c": torch.tensor(0.5), "empty": torch.zeros(0, 3)}
    write_snapshot(tmp_path, Snapshot(length=0.05, images_seen=24, steps=2), tensors)
    refusals, unnoticed = [], 0
    for place in range(path.stat().st_size):
        content = flip(path, place, place % 8)
        try:
            found, told = read_snapshot(path), snapshots(tmp_path)[path]
            # White space is the one thing that may change: then all is what was written.
            assert told == Snapshot(length=0.05, images_seen=24, steps=2)
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], value) for name, value in tensors.items())
            unnoticed += 1
        except ValueError as error:
            refusals.append(str(error))
        path.write_bytes(content)
    assert unnoticed < 8
    assert all(f"{path} is not a whole snapshot" in refusal and "remove it" in refusal for refusal in refusals)


def test_a_snapshot_with_changed_values_enters_no_average(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = min((tmp_path / "run" / "averages").iterdir())
    flip(path, path.stat().st_size - 3, 0)
    with pytest.raises(ValueError, match=rf"{path} is not a whole snapshot .*its tensors are not what was written"):
        soda_fast.load(tmp_path / "run", ema_length=0.07)


@pytest.mark.parametrize("more", [{}, {"manifest_sha256": ""}])
def test_a_snapshot_without_checksums_is_not_used(more: dict[str, str], tmp_path: Path) -> None:
    path, tensors = snapshot_path(tmp_path, 24, 0.05), {"a": torch.arange(3.0)}
    snapshot = Snapshot(length=0.05, images_seen=24, steps=2)
    save_file(tensors, path, metadata={"soda_fast": json.dumps({**asdict(snapshot), **more})})
    for read in (lambda: read_snapshot(path), lambda: snapshots(tmp_path)):
        with pytest.raises(ValueError, match="its header is not what was written"):
            read()


def test_a_snapshot_under_another_name_is_noticed(tmp_path: Path) -> None:
    write_snapshot(tmp_path, Snapshot(length=0.05, images_seen=24, steps=2), {"a": torch.zeros(1)})
    snapshot_path(tmp_path, 24, 0.05).rename(snapshot_path(tmp_path, 36, 0.05))
    with pytest.raises(ValueError, match=r"it is the one of 24 images and length 0\.05"):
        snapshots(tmp_path)


def test_a_dry_run_tells_of_them(tmp_path: Path) -> None:
    described = describe(config_from_tree(tiny_tree(tmp_path, 64, ema_lengths=[0.05, 0.1])))
    assert f"averages     of relative lengths 0.05, 0.1; a snapshot of each every {2 * BATCH} images" in described
    assert "averages" not in describe(config_from_tree(tiny_tree(tmp_path, 64)))
