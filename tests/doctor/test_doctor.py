"""`soda-fast doctor` as a user runs it: on this machine, with configurations that train and ones that do not."""

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.pictures import clouds, encode
from forked import PATIENCE_S
from PIL import Image
from training.tiny import tiny_tree

from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.doctor.disk import disk_findings, nearest_folder, read_rate, write_rate
from soda_fast.doctor.findings import Finding, as_text
from soda_fast.doctor.trial import last_words, run_limited

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "demo_digits.yaml")


def test_the_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for subject in ("PyTorch", "GPU", "driver", "NCCL", "DALI", "Triton", "compilers", "cores", "memory"):
        assert f"\n         {subject:14} " in text or f" {subject:14} " in text
    assert max(len(line) for line in text.splitlines()) <= 130


def test_the_digits_train_here_and_nothing_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "digits"
    assert main(["doctor", DIGITS, "--batch", "4", f"run.dir={run}", "model.decoder.blocks=1"]) == 0
    text = capsys.readouterr().out
    assert "digits, 1,437 training images" in text
    assert "two steps      done on" in text
    assert "the second" in text
    assert text.splitlines()[-1].startswith("Training can start")
    assert list(tmp_path.iterdir()) == []


def test_images_that_training_would_decode_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """data.backend=batched refuses what is not decoded, and the two steps decode nothing beforehand."""
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(6):
            content = encode(Image.fromarray(clouds(generator, 16, 16)), "JPEG")
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(content)
    tree = tiny_tree(tmp_path / "run", steps=50)
    tree["data"] |= {"dataset": "folder", "root": str(tmp_path), "backend": "batched"}
    (tmp_path / "batched.yaml").write_text(json.dumps(tree))
    assert main(["doctor", str(tmp_path / "batched.yaml"), "--batch", "4"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "images in memory, a batch at once" in text
    assert "with 4 images a step, decoded as they come and not, as training will have them, in memory" in text


MISTAKES = {
    "a key": (["model.decoder.chanels=32"], "model.decoder.chanels", "configuration"),
    "a contradiction": (["model.decoder.channels=33"], "multiple of 32", "configuration"),
    "no images": (["data.dataset=cifar10", "data.root=/nowhere"], "data.root /nowhere", "data set"),
    "no shards": (
        ["parallel.strategy=hsdp", "parallel.shard_processes=4096"],
        "parallel.shard_processes is 4096",
        "processes",
    ),
    "no place": (["run.dir=/dev/null/run"], "run.dir /dev/null/run", "run directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_start(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, told, subject = MISTAKES[mistake]
    assert main(["doctor", DIGITS, *overrides]) == 1
    text = capsys.readouterr().out
    assert told in " ".join(text.split())
    assert text.splitlines()[-1] == f"Training cannot start: {subject}"
    assert "Two steps" not in text


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().out


def test_a_step_that_fails_is_told_in_its_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny_tree(tmp_path / "run", steps=50, encoder_lr=1e30, decoder_lr=1e30, warmup_images=0)
    (tmp_path / "bad.yaml").write_text(json.dumps(tree))
    assert main(["doctor", str(tmp_path / "bad.yaml")]) == 1
    text = capsys.readouterr().out
    assert "wrong  two steps" in text
    assert "NaN or infinite" in " ".join(text.split())
    assert "Traceback" not in text


def test_a_limit_that_is_too_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", DIGITS, "--limit-s", "0.3"]) == 1
    assert "not done after 0 s" in capsys.readouterr().out


class Begun(subprocess.Popen[str]):
    """Its time begins when it has said something."""

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        select.select([self.stdout], [], [], PATIENCE_S)
        return super().communicate(input, timeout)


def test_a_command_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", Begun)
    start = time.monotonic()
    code, output = run_limited(["sh", "-c", "echo begun; sleep 600 & sleep 600"], 0.5)
    assert (code, output) == (None, "begun\n")
    assert time.monotonic() - start < PATIENCE_S
    monkeypatch.undo()
    assert run_limited([sys.executable, "-c", "raise SystemExit(3)"], 60) == (3, "")


def test_last_words() -> None:
    assert last_words("a\nsoda-fast: no such key\nE1124 torchrun says much\n") == "no such key"
    assert last_words("\n".join("abcdefg")) == "c\nd\ne\nf\ng"
    assert last_words("") == "it said nothing"


def config(run: Path, **data: Any) -> Any:
    tree = tiny_tree(run, steps=2)
    tree["data"] |= data
    return config_from_tree(tree)


def test_disks(tmp_path: Path) -> None:
    (found,) = disk_findings(config(tmp_path / "new" / "run"), parameters=1000)
    assert found.mark == "ok"
    assert str(tmp_path) in found.text
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.bin").write_bytes(bytes(5 << 20))
    assert (read_rate(tmp_path / "images") or 0) > 0
    assert write_rate(tmp_path) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    (found,) = disk_findings(config(tmp_path), parameters=10**14)
    assert found.mark == "wrong"
    assert "2 checkpoints and a new one need" in found.remedy


def test_snapshots_of_averages_need_room_too(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, steps=64, ema_lengths=[0.05, 0.1])
    (found,) = disk_findings(config_from_tree(tree), parameters=10**12, train_images=1000)
    # Float32, two lengths, 32 moments.
    assert f"with {4 * 10**12 * 2 * 32 / 2**30:.1f} GiB of snapshots of averages" in found.remedy


def test_an_empty_root_has_no_speed(tmp_path: Path) -> None:
    assert read_rate(tmp_path) is None


def test_lines_are_aligned() -> None:
    text = as_text("Title", [Finding("ok", "one", "word " * 30), Finding("note", "two", "b", "do c")])
    lines = text.splitlines()
    assert lines[0] == "Title"
    assert {line.index(word) for line, word in zip(lines[1:], ("word", "word", "b; do c"), strict=True)} == {24}
