"""Exported folders are whole, or are said not to be; and what loading says of damaged checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from training.tiny import BATCH, run_tiny, tiny_tree

import soda_fast
from soda_fast import pretrained
from soda_fast.cli import main
from soda_fast.run_directory import RunDirectory
from soda_fast.training import checkpoint_files
from soda_fast.training.checkpoint_files import checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "run"
    run_tiny(tiny_tree(path, steps=2, save_every_images=BATCH, keep_checkpoints=2))
    return path


def test_an_interrupted_export_over_an_older_one_is_none(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), str(out)]) == 0
    (out / "model.safetensors").unlink()
    (out / "model.safetensors").mkdir()  # where the second file cannot be written
    assert main(["export", str(run), str(out)]) == 2
    assert (out / "encoder.safetensors").is_file()
    for load in (soda_fast.load, soda_fast.load_encoder):
        with pytest.raises(ValueError, match="not a run directory"):
            load(out)


def test_files_of_two_exports_are_not_loaded(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), str(out)]) == 0
    assert set(json.loads((out / "config.json").read_text())["sha256"]) == {"encoder.safetensors", "model.safetensors"}
    file = out / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of a weight: a whole file with another model
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.safetensors is not the file that was exported"):
        soda_fast.load_encoder(out)
    soda_fast.load(out)


def test_a_run_is_no_place_to_export_to(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in run.iterdir()}
    assert main(["export", str(run), str(run)]) == 2
    assert "is a run's directory; choose another folder" in capsys.readouterr().err
    assert {path.name for path in run.iterdir()} == before


def test_a_damaged_newest_checkpoint_is_told_of(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    older, newer = checkpoints(damaged / "checkpoints")
    data = newer / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-1])
    model = soda_fast.load(damaged)
    told = capsys.readouterr().err
    assert f"warning: checkpoint {newer} is damaged (__0_0.distcp is not what was written)" in told
    assert f"{older} is used instead" in told
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    monkeypatch.setenv("RANK", "1")
    soda_fast.load(damaged)
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_training_removes_meanwhile(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its files are compared, or read: what is newest then is taken, and it is no damage."""
    trained = tmp_path / "run"
    shutil.copytree(run, trained)
    older, newer = checkpoints(trained / "checkpoints")
    shutil.copytree(newer, tmp_path / "copy")
    compare, read = checkpoint_files.find_damage, pretrained.read_tensors

    def find_damage(path: Path) -> str | None:
        if path == newer:
            shutil.rmtree(newer)
        return compare(path)

    def read_tensors(path: Path, prefix: str, into: dict[str, torch.Tensor]) -> None:
        if path == newer:
            shutil.rmtree(newer)
        read(path, prefix, into)

    with monkeypatch.context() as while_comparing:
        while_comparing.setattr(checkpoint_files, "find_damage", find_damage)
        assert checkpoint_files.latest(trained / "checkpoints") == (older, [])
    (tmp_path / "copy").rename(newer)
    monkeypatch.setattr(pretrained, "read_tensors", read_tensors)
    assert pretrained.load_run(RunDirectory(trained))[2] == older


def test_an_edited_config_yaml_is_not_believed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same weights under another noise schedule, or other means, would give something else."""
    edited = tmp_path / "run"
    shutil.copytree(run, edited)
    file = edited / "config.yaml"
    was = file.read_text()
    file.write_text(was.replace("schedule: linear", "schedule: cosine"))
    assert main(["export", str(edited), str(tmp_path / "out")]) == 2
    assert "config.yaml has diffusion.schedule = 'cosine', and" in capsys.readouterr().err
    file.write_text(was.replace("mean: [0.3", "mean: [0.4"))
    with pytest.raises(ValueError, match=r"has data.mean = \(0.4.* was trained with \(0.3.*; put that back"):
        soda_fast.load(edited)
    file.write_text(was.replace("log_every_images: 12", "log_every_images: 24"))
    soda_fast.load(edited)


def test_an_absurd_config_json_is_told(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path)]) == 0
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not the description of an exported model"):
        soda_fast.load(tmp_path)
