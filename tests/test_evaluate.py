"""`evaluate` on several processes and on other encoders: which checkpoint is judged, and what the report says of it."""

import errno
import json
import os
from pathlib import Path

import pytest
from spawn import run_in_processes
from training.tiny import BATCH, run_tiny, tiny_tree

from soda_fast import pretrained
from soda_fast.cli import main

STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluate") / "run"
    tree = tiny_tree(path, STEPS)
    tree["evaluation"] = {"protocols": ["knn-dino"], "made_images": 2, "batch_images": 400}
    run_tiny(tree)
    return path


def code_where_the_main_process_chooses(command: list[str]) -> int:
    """The exit code of a command under which no other process may look for a checkpoint."""
    real = pretrained.latest

    def latest(root: Path) -> tuple[Path | None, list[str]]:
        if os.environ["RANK"] != "0":
            raise ValueError("another checkpoint may have come meanwhile")
        return real(root)

    pretrained.latest = latest  # type: ignore[assignment]
    return main(command)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN"],
        ["evaluate", "RUN", "sampling.steps=1", "--encoder", "run:RUN", "--protocols", "frechet"],
        ["sample", "RUN", "--images", "1", "--steps", "1"],
    ],
)
def test_one_process_chooses_the_checkpoint_for_all(run: Path, command: list[str]) -> None:
    command = [word.replace("RUN", str(run)) for word in command]
    assert run_in_processes(code_where_the_main_process_chooses, 2, command) == [0, 0]


def test_the_report_on_another_run_names_its_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--encoder", f"run:{run}", "--protocols", "knn-dino"]) == 0
    assert f"{STEPS * BATCH} images seen" in capsys.readouterr().out
    (report,) = run.glob("evaluation-*.json")
    assert json.loads(report.read_text())["checkpoint"] == {
        "run": str(run),
        "name": str(run / "checkpoints" / f"images-{STEPS * BATCH:012d}"),
        "images_seen": STEPS * BATCH,
        "weights": "EMA of train.ema_beta 0.5",
    }
    report.unlink()
    assert main(["export", str(run), str(tmp_path / "exported")]) == 0
    spec = f"run:{tmp_path / 'exported'}"
    assert main(["evaluate", str(run), "--encoder", spec, "--protocols", "knn-dino"]) == 0
    (report,) = run.glob("evaluation-*.json")
    checkpoint = json.loads(report.read_text())["checkpoint"]
    assert (checkpoint["name"], checkpoint["weights"]) == (spec, "EMA of train.ema_beta 0.5, exported")
    assert main(["evaluate", str(run), "--encoder", f"run:{tmp_path}"]) == 2
    assert f"{tmp_path} is not a run directory" in capsys.readouterr().err


def test_a_full_disk_takes_no_accuracies_along(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    assert main(["evaluate", str(run), "--held-out"]) == 2
    told = capsys.readouterr()
    assert "trained  z" in told.out
    assert "evaluation-held-out.json: No space left on device" in told.err
    assert "all numbers" not in told.out
