"""Studies: what a file amounts to, budgets, tables, and a study run twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import yaml
from forked import PATIENCE_S

import benchmarks.recipes.__main__ as command
from benchmarks.recipes import budget, picture
from benchmarks.recipes.__main__ import arm_images, run_study
from benchmarks.recipes.budget import CALIBRATION_STEPS, images_within
from benchmarks.recipes.cell import Cell, Outcome, read_metrics
from benchmarks.recipes.results import final, table, training_seconds
from benchmarks.recipes.study import Budget, arms_of, configuration, read_study
from benchmarks.recipes.trainings import Trainings
from soda_fast import cores
from soda_fast.config import Config, config_from_tree, load_config
from soda_fast.flops import count_flops
from soda_fast.run_lock import RunLock

CONFIG: dict[str, Any] = {
    "data": {"dataset": "digits", "source_size": 8, "target_size": 8},
    "model": {
        "encoder": {"arch": "small", "z_dim": 8, "widths": [8], "depths": [1]},
        "decoder": {"channels": 32, "multipliers": [1], "attention": [False], "blocks": 1, "dropout": 0.0},
    },
    "train": {"images": 1, "global_batch_images": 16, "log_every_images": 16, "ema_beta": 0.5},
    "sampling": {"images": 2, "steps": 1},
    "evaluation": {"during": {"knn-dino": 32}},
}


def write(folder: Path, **study: Any) -> Path:
    (folder / "base.yaml").write_text(yaml.safe_dump(CONFIG))
    file = folder / "study.yaml"
    file.write_text(
        yaml.safe_dump(
            {"question": "Which?", "config": "base.yaml", "budget": {"images": 64}, **study}, sort_keys=False
        )
    )
    return file


def test_every_arm_meets_every_value_of_the_grid(tmp_path: Path) -> None:
    grid = {"model.encoder.z_dim": [8, 16], "train.betas": [[0.9, 0.95]]}
    arms = {"plain": [], "cosine": ["diffusion.schedule=cosine"]}
    file = write(tmp_path, arms=arms, grid=grid)
    found = arms_of(read_study(file))
    assert [arm.name for arm in found] == [
        f"{name} model.encoder.z_dim={width} train.betas=[0.9, 0.95]" for name in arms for width in (8, 16)
    ]
    config = configuration(read_study(file), found[3], file)
    assert (config.diffusion.schedule, config.model.encoder.z_dim, config.train.betas) == ("cosine", 16, (0.9, 0.95))
    alone = arms_of(read_study(write(tmp_path, grid={"run.seed": [1]})))
    assert [arm.name for arm in alone] == ["run.seed=1"]


@pytest.mark.parametrize(
    ("study", "words"),
    [
        ({"budget": {}}, ["budget has nothing", "images, minutes, flops"]),
        ({"budget": {"images": 5, "flops": 1.0}}, ["budget has images, flops"]),
        ({"seeds": []}, ["study.yaml: seeds"]),
        ({"arm": {}}, ["study.yaml: arm"]),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, study: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml: ") as caught:
        read_study(write(tmp_path, **study))
    assert all(word in str(caught.value) for word in words)


def test_an_arm_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, arms={"odd": ["diffusion.schedul=cosine"]})
    study = read_study(file)
    with pytest.raises(ValueError, match=r"arm 'odd': .*diffusion\.schedul.*diffusion\.schedule"):
        configuration(study, arms_of(study)[0], file)


def test_budgets_become_whole_batches() -> None:
    config = config_from_tree(CONFIG)

    def rate() -> float:
        return 10.0

    assert images_within(Budget(images=100), config, rate) == 96
    assert images_within(Budget(images=3), config, rate) == 16
    assert images_within(Budget(minutes=0.5), config, rate) == 288  # 300 images
    assert images_within(Budget(flops=50.5 * count_flops(config).forward_backward), config, rate) == 48


def outcome(arm: str, seed: int, *accuracies: float, problem: str = "") -> Outcome:
    metrics: list[dict[str, float]] = []
    for number, accuracy in enumerate(accuracies, start=1):
        metrics.append({"images_seen": 100 * number, "loss": 1.0, "images_per_second": 50.0})
        metrics.append({"images_seen": 100 * number, "knn-dino/z": accuracy})
    return Outcome(arm, seed, problem, 9.0, metrics)


def test_the_table_pairs_seeds() -> None:
    outcomes = [outcome("a", 0, 0.1, 0.40), outcome("a", 1, 0.1, 0.50), outcome("b", 0, 0.2, 0.45)]
    outcomes += [outcome("b", 1, 0.2, 0.56), outcome("c", 0, problem="exit 1: diverged")]
    assert final(outcomes[0], "knn-dino/z") == 0.4
    assert training_seconds(outcomes[0]) == 4.0
    lines = table(outcomes, ["a", "b", "c", "d"], dict.fromkeys("abcd", 1e13)).splitlines()
    assert lines[0] == "| arm | seeds | images | TFLOP | minutes | knn-dino/z | Δ knn-dino/z |"
    assert lines[2] == f"| a | 2 | 200 | 2,000.0 | 0.1 | 45.0 ± {100 * stdev([0.4, 0.5]):.1f} |  |"
    assert lines[3] == f"| b | 2 | 200 | 2,000.0 | 0.1 | 50.5 ± {100 * stdev([0.45, 0.56]):.1f} | +5.5 ± 0.7 |"
    assert "diverged" in lines[4]
    assert "not run yet" in lines[5]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcomes = [outcome("a", 0, 0.1, 0.40), outcome("a", 1, 0.1, 0.50), outcome("b", 0, 0.2, 0.45)]
    assert picture.draw(outcomes, ["a", "b"], {"a": 1e13, "b": 2e13}, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000
    assert not picture.draw([outcome("a", 0)], ["a"], {"a": 1e13}, tmp_path / "none.png")


def test_a_study_ends_with_its_results_and_the_same_command_does_nothing_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"plain": [], "no images": ["data.dataset=folder", "data.root=/nowhere"]}
    file = write(tmp_path, arms=arms, seeds=[4])
    out, runs = tmp_path / "out", tmp_path / "runs"
    earlier = runs / "no_images" / "seed-4" / "study.log"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("ValueError: what another try said last\n")
    assert run_study(file, [], out, runs, jobs=2) == 1
    lines = {line["arm"]: line for line in map(json.loads, (out / "curves.jsonl").read_text().splitlines())}
    assert "/nowhere" in lines["no images"]["problem"]
    seen = [line["images_seen"] for line in lines["plain"]["metrics"] if "knn-dino/z" in line]
    assert (seen, lines["plain"]["seed"]) == ([32, 64], 4)
    text = (out / "table.md").read_text()
    assert text.startswith("Which?")
    assert "| plain | 1 | 64 |" in text
    run = runs / "plain" / "seed-4"
    before = ((run / "study.log").stat().st_mtime_ns, read_metrics(run))
    assert run_study(write(tmp_path, arms={"plain": []}, seeds=[4]), [], out, runs, jobs=1) == 0
    assert ((run / "study.log").stat().st_mtime_ns, read_metrics(run)) == before


def test_a_study_that_is_told_to_end_ends_its_trainings(tmp_path: Path) -> None:
    """Each with a checkpoint, and none begins any more; the same command goes on."""
    file = write(tmp_path, budget={"images": 1_000_000}, seeds=[0, 1])
    runs = tmp_path / "runs"
    study = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.recipes", file, "--out", tmp_path / "out", "--runs", runs],
        stderr=subprocess.PIPE,
        text=True,
    )
    first = runs / "as_configured" / "seed-0"
    while not any(line.get("images_seen", 0) for line in read_metrics(first)):
        assert study.poll() is None
        time.sleep(0.05)
    study.terminate()
    assert "the same command goes on" in study.communicate(timeout=PATIENCE_S)[1]
    assert study.returncode == 130
    assert list((first / "checkpoints").glob("images-*"))
    RunLock(first).acquire()  # nobody trains there any more
    assert not first.with_name("seed-1").exists() or not (first.with_name("seed-1") / "study.log").exists()


def test_an_arm_is_timed_at_its_own_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of several overrides counts. Its length is in steps of that batch."""
    timed: list[Config] = []

    def trained(cell: Cell, threads: int, trainings: Trainings) -> Outcome:
        timed.append(load_config(cell.config, cell.overrides))
        return outcome("large", 0, 0.1)

    monkeypatch.setattr(budget, "run_cell", trained)
    larger = ["train.global_batch_images=64"]
    file = write(tmp_path, budget={"minutes": 1}, overrides=["train.global_batch_images=8"], arms={"large": larger})
    study = read_study(file)
    (arm,) = arms_of(study)
    images = arm_images(study, arm, configuration(study, arm, file), file, (), tmp_path / "runs", 1, Trainings())
    assert images == {"train.images": 60 * 50 // 64 * 64}
    (config,) = timed
    assert (config.train.images, config.train.log_every_images) == (CALIBRATION_STEPS * 64, 64)


def test_a_budget_replaces_the_configurations_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most shipped configurations have them."""
    trained: list[Config] = []

    def run(cell: Cell, threads: int, trainings: Trainings) -> Outcome:
        trained.append(load_config(cell.config, cell.overrides))
        return outcome("as configured", cell.seed, 0.1)

    monkeypatch.setattr(command, "run_cell", run)
    file = write(tmp_path, seeds=[0])
    epochs = {**CONFIG["train"], "images": None, "epochs": 800}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**CONFIG, "train": epochs}))
    assert run_study(file, [], tmp_path / "out", tmp_path / "runs", jobs=1) == 0
    assert [(config.train.images, config.train.epochs) for config in trained] == [(64, None)]


def test_trainings_share_the_cores_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of the machine's, of which a job or a container may have few."""
    threads: list[int] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "available_cores", lambda: 6.0)
    monkeypatch.setattr(
        command, "run_cell", lambda cell, each, trainings: threads.append(each) or outcome("as configured", 0, 0.1)
    )
    assert run_study(write(tmp_path, seeds=[0]), [], tmp_path / "out", tmp_path / "runs", jobs=2) == 0
    assert threads == [3]


def test_minutes_are_measured_once(tmp_path: Path) -> None:
    file, runs = write(tmp_path, budget={"minutes": 0.0005}, seeds=[0]), tmp_path / "runs"
    study = read_study(file)
    (arm,) = arms_of(study)
    kept = runs / arm.folder / "images"
    kept.parent.mkdir(parents=True)
    kept.write_text("32")
    given = (study, arm, configuration(study, arm, file), file, (), runs, 1, Trainings())
    assert arm_images(*given) == {"train.images": 32}
    kept.unlink()
    measured = arm_images(*given)["train.images"]
    assert measured % 16 == 0
    assert measured > 0
    assert kept.read_text() == str(measured)
