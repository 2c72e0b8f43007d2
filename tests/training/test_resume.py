"""Stopping and starting again changes nothing, on any number of processes."""

import json
import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training.tiny import BATCH, losses, read_metrics, run_tiny, tiny_tree, weights_hash

from soda_fast.cli import main
from soda_fast.config import ConfigError, config_from_tree, load_config
from soda_fast.pretrained import load_run
from soda_fast.run_directory import RunDirectory
from soda_fast.train import train
from soda_fast.training.checkpoint_files import MANIFEST, checkpoints, latest, read_manifest, sealed


def weights(run_dir: Path) -> dict[str, Tensor]:
    return load_run(RunDirectory(run_dir))[0].state_dict()


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert weights_hash(a) == weights_hash(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps without a stop."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_tiny(tiny_tree(path, steps=8))
    return path


def test_resumed_twice_equals_uninterrupted_bit_for_bit(whole_run: Path, tmp_path: Path) -> None:
    for steps in (3, 5, 8):
        run_tiny(tiny_tree(tmp_path / "parts", steps=steps))
    assert_same_weights(whole_run, tmp_path / "parts")
    assert losses(whole_run) == losses(tmp_path / "parts")


def test_a_run_killed_after_its_last_checkpoint(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that metrics.jsonl has beyond the checkpoint are written once, not twice."""
    run_tiny(tiny_tree(tmp_path / "killed", steps=5))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"images_seen": 6 * BATCH, "loss": 99.0}) + '\n{"images_se')
    capsys.readouterr()
    run_tiny(tiny_tree(tmp_path / "killed", steps=8))
    assert f"resuming {tmp_path / 'killed'} at {5 * BATCH} of {8 * BATCH} images" in capsys.readouterr().out
    assert_same_weights(whole_run, tmp_path / "killed")
    assert losses(whole_run) == losses(tmp_path / "killed")


def test_a_finished_run_has_nothing_to_do(whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole_run, tmp_path / "again")
    before = read_metrics(tmp_path / "again")
    left = tmp_path / "again" / "checkpoints" / f".images-{7 * BATCH:012d}.tmp"
    left.mkdir()
    capsys.readouterr()
    run_tiny(tiny_tree(tmp_path / "again", steps=8))
    assert "nothing to do" in capsys.readouterr().out
    assert read_metrics(tmp_path / "again") == before
    assert not left.exists(), "what a kill left goes before a save, for which there may be no room beside it"


def test_a_damaged_checkpoint_is_passed_over(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    run_tiny(tiny_tree(run, steps=4, save_every_images=2 * BATCH))
    older, newer = checkpoints(run / "checkpoints")
    data = newer / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    path, complaints = latest(run / "checkpoints")
    assert path == older
    assert len(complaints) == 1
    assert newer.name in complaints[0]
    run_tiny(tiny_tree(run, steps=8))
    assert_same_weights(whole_run, run)


def test_a_half_written_checkpoint_is_none(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "half"
    shutil.copytree(whole_run, run)
    (newest,) = checkpoints(run / "checkpoints")
    newest.rename(newest.with_name(f".{newest.name}.tmp"))
    assert latest(run / "checkpoints") == (None, [])
    with pytest.raises(ValueError, match="no whole checkpoint"):
        load_run(RunDirectory(run))


def test_another_configuration_may_be_accepted(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole_run, tmp_path / "changed")
    tree = tiny_tree(tmp_path / "changed", steps=9, encoder_lr=0.0001, ema_beta=0.25)
    (tmp_path / "changed.yaml").write_text(json.dumps(tree))
    assert main(["train", str(tmp_path / "changed.yaml")]) == 2
    told = capsys.readouterr().err
    assert "train.encoder_lr = 0.0008, not 0.0001; train.ema_beta = 0.5, not 0.25; " in told
    assert "--accept-changes" in told
    assert main(["train", str(tmp_path / "changed.yaml"), "--accept-changes"]) == 0
    shown = capsys.readouterr().out
    assert "warning: going on with train.encoder_lr = 0.0001 (was 0.0008), train.ema_beta = 0.25 (was 0.5)" in shown
    assert load_config(tmp_path / "changed" / "config.yaml").train.encoder_lr == 0.0001
    # Another architecture cannot take the weights, accepted or not.
    tree["model"]["encoder"]["z_dim"] = 4
    (tmp_path / "changed.yaml").write_text(json.dumps(tree))
    assert main(["train", str(tmp_path / "changed.yaml"), "--accept-changes"]) == 2
    assert "has shape (8, 8); the run's config.yaml asks for (4, 8)" in capsys.readouterr().err


def test_without_a_checkpoint_everything_may_change(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run").make()
    RunDirectory(tmp_path / "run").write_config(config_from_tree(tiny_tree(tmp_path / "run", steps=2)))
    run_tiny(tiny_tree(tmp_path / "run", steps=2, encoder_lr=0.0001))


def test_harmless_keys_may_change(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "more")
    tree = tiny_tree(
        tmp_path / "more", steps=9, log_every_images=2 * BATCH, save_every_images=BATCH, keep_checkpoints=5
    )
    tree |= {"perf": {"activation_checkpointing": True}, "parallel": {"strategy": "ddp"}}
    tree["data"] |= {"threads": 1, "prefetch_batches": 1, "kernels": "pytorch"}
    run_tiny(tree)


def test_another_configuration_is_refused(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "changed")
    with pytest.raises(ConfigError, match=r"train\.encoder_lr = 0\.0008, not 0\.1"):
        run_tiny(tiny_tree(tmp_path / "changed", steps=8, encoder_lr=0.1))
    assert load_config(tmp_path / "changed" / "config.yaml").train.encoder_lr == 0.0008


def test_a_key_that_this_version_lacks(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    manifest = read_manifest(newest)
    manifest["config"]["train"]["gone"] = 1
    (newest / MANIFEST).write_text(json.dumps(sealed(manifest)))
    run, config = RunDirectory(tmp_path / "run"), config_from_tree(tiny_tree(tmp_path / "run", steps=9))
    with pytest.raises(ConfigError, match=rf"{newest / MANIFEST} .*train\.gone: unknown key.*--accept-changes"):
        run.check_changes(config)
    assert "going on without a comparison of the keys" in (run.check_changes(config, accept_changes=True) or "")
    train(config, accept_changes=True)


def test_without_config_yaml_the_checkpoint_says_what_was_trained(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    (run / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"train\.encoder_lr = .*--accept-changes"):
        run_tiny(tiny_tree(run, 9, encoder_lr=1e-3))
    run_tiny(tiny_tree(run, 8))
    assert (run / "config.yaml").is_file()


def test_an_edited_config_yaml_is_another_configuration(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint says what was trained; what is edited, and given to train, does not."""
    shutil.copytree(whole_run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    good = config.read_text().replace(str(whole_run), str(tmp_path / "run"))
    config.write_text(good.replace("encoder_lr: 0.0008", "encoder_lr: 0.1"))
    assert main(["train", str(config), f"train.images={9 * BATCH}"]) == 2
    assert "train.encoder_lr = 0.0008, not 0.1" in capsys.readouterr().err
    run_tiny(tiny_tree(tmp_path / "run", 9))
    assert load_config(config).train.encoder_lr == 0.0008


def train_on(processes: int, path: Path, steps: int, parallel: dict[str, Any] | None = None, **model: float) -> None:
    tree = tiny_tree(path, steps)
    tree["model"]["decoder"] |= model
    tree["parallel"] = parallel or {}
    started = forked.train_together(tree, processes)
    assert [forked.ends_with(process) for process in started] == [0] * processes, forked.log(tree)


# Process counts and strategies, one after the other, and the step until which each trains.
JOURNEY: list[tuple[int, dict[str, Any], int]] = [
    (1, {}, 3),
    (2, {"strategy": "fsdp"}, 6),
    (3, {"strategy": "ddp"}, 9),
    (4, {"strategy": "hsdp", "shard_processes": 2}, 12),
    (1, {"strategy": "ddp"}, 32),
]


@pytest.mark.slow
def test_resumes_on_other_numbers_of_processes(tmp_path: Path) -> None:
    """fp32 without dropout: the 3 steps after each move agree to 1e-5, the 20 after the last to 1e-3."""
    run = tmp_path / "moving"
    train_on(1, tmp_path / "one", JOURNEY[-1][-1], dropout=0.0)
    for leg, (processes, parallel, until) in enumerate(JOURNEY):
        copy = tmp_path / f"leg-{leg}"
        if leg:
            # One process goes on from the same checkpoint: the yardstick for these steps.
            shutil.copytree(run, copy)
            train_on(1, copy, until, dropout=0.0)
        train_on(processes, run, until, parallel, dropout=0.0)
        if leg:
            here, there, start = losses(run), losses(copy), JOURNEY[leg - 1][-1]
            for step in range(start + 1, until + 1):
                close = pytest.approx(there[step * BATCH], rel=1e-5 if step <= start + 3 else 1e-3)
                assert here[step * BATCH] == close, (leg, step)
    one, moved = losses(tmp_path / "one"), losses(run)
    assert moved.keys() == one.keys()
    for images in one:
        assert moved[images] == pytest.approx(one[images], rel=1e-3)


def test_resumed_by_two_processes_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, augmentation and the moving average, in the middle of an epoch, twice."""
    for run, stops in ((tmp_path / "whole", (6,)), (tmp_path / "parts", (2, 5, 6))):
        for steps in stops:
            train_on(2, run, steps)
    assert weights_hash(tmp_path / "whole") == weights_hash(tmp_path / "parts")


def test_accumulation_gives_nearly_the_same_step(tmp_path: Path) -> None:
    """Not quite: BatchNorm sees each part by itself."""
    run_tiny(tiny_tree(tmp_path / "one", 3))
    run_tiny(tiny_tree(tmp_path / "parts", 3, accumulate=2))
    for images, loss in losses(tmp_path / "one").items():
        assert losses(tmp_path / "parts")[images] == pytest.approx(loss, rel=0.05)


def folder_tree(tmp_path: Path, steps: int) -> dict[str, Any]:
    """Of images in a folder, with statistics that do not tell one set of images from another."""
    tree = tiny_tree(tmp_path / "run", steps)
    tree["data"] |= {"dataset": "folder", "root": str(tmp_path / "images"), "mean": [0.5] * 3, "std": [0.25] * 3}
    return tree


def write_images(root: Path, count: int) -> None:
    for number in range(count):
        path = root / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def test_other_images_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 30)
    run_tiny(folder_tree(tmp_path, 2))
    write_images(tmp_path / "images", 32)
    config = tmp_path / "longer.yaml"
    config.write_text(json.dumps(folder_tree(tmp_path, 4)))
    assert main(["train", str(config)]) == 2
    assert "was trained on 30 images, and data.root holds 32" in capsys.readouterr().err
    assert main(["train", str(config), "--accept-changes"]) == 0
    assert "going on, as --accept-changes says" in capsys.readouterr().out
    assert max(losses(tmp_path / "run")) == 4 * BATCH


def test_a_configuration_that_the_checkpoint_refuses_is_not_kept(tmp_path: Path) -> None:
    """The run is still what it was, and its own command still goes on."""
    run_tiny(tiny_tree(tmp_path / "run", 2))
    wider = tiny_tree(tmp_path / "run", 4)
    wider["model"]["encoder"]["z_dim"] = 4
    (tmp_path / "wider.yaml").write_text(json.dumps(wider))
    assert main(["train", str(tmp_path / "wider.yaml"), "--accept-changes"]) == 2
    assert load_config(tmp_path / "run" / "config.yaml").model.encoder.z_dim == 8
    run_tiny(tiny_tree(tmp_path / "run", 4))
    assert max(losses(tmp_path / "run")) == 4 * BATCH
