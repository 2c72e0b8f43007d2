"""NaN and Inf: undone whole, traced to process, samples and module, kept, repeated."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from training.tiny import BATCH, make_trainer, read_metrics, run_tiny, tiny_tree

from soda_fast import failures
from soda_fast.cli import main
from soda_fast.config import config_from_tree
from soda_fast.errors import TrainingError
from soda_fast.parallel import start_processes
from soda_fast.replay import for_processes
from soda_fast.training import faults
from soda_fast.training.checkpoint_files import latest, read_manifest
from soda_fast.training.diagnosis import StepFinding, summarise, watch_step
from soda_fast.training.faults import examine_step
from soda_fast.training.finite import NonFiniteError
from soda_fast.training.trainer import Trainer

NAN, INF = float("nan"), float("inf")


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = trainer.step.state.tensors()
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value.clone() for name, value in
            tensors.items() if name.startswith(("model.", "optimizer.")) and "num_batches" not in name}  # fmt: skip


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, value: float) -> None:
    """Neither weights nor moments nor BatchNorm's statistics; and with allowed skips training goes on after it."""
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes, max_skipped_steps=1)
        trainer.step(trainer.global_batch(0))
        before = everything(trainer)
        parts = trainer.global_batch(BATCH)
        parts[0].source[3, 0, 0, 0] = value
        trainer.step(parts)
        assert same(everything(trainer), before)
        assert trainer.step.guard.check() == 1
        assert torch.isfinite(trainer.step.loss_sum)
        trainer.step(trainer.global_batch(2 * BATCH))
        after = everything(trainer)
        assert not same(after, before)
        assert all(torch.isfinite(tensor).all() for tensor in after.values())
        # The second is one too many; from there on nothing moves, so that the weights are still that step's.
        trainer.step(parts)
        trainer.step(trainer.global_batch(4 * BATCH))
        assert same(everything(trainer), after)
        with pytest.raises(NonFiniteError) as raised:
            trainer.step.guard.check()
        assert raised.value.images_seen == 3 * BATCH
        trainer.checkpoints.close()


def test_a_loss_that_overflows_alone(tmp_path: Path) -> None:
    """Its gradient is finite: 2 (predicted - noise) does not overflow where its square does."""
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes)
        with torch.no_grad():
            trainer.step.model.decoder.conv_out.bias.to_local().fill_(1e20)
        before = everything(trainer)
        trainer.step(trainer.global_batch(0))
        assert same(everything(trainer), before)
        with pytest.raises(NonFiniteError):
            trainer.step.guard.check()
        assert [finding.place for finding in examine_step(trainer.step, trainer.global_batch(0))] == ["the loss"]
        trainer.checkpoints.close()


def test_skipped_steps_survive_a_resume(tmp_path: Path) -> None:
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes, max_skipped_steps=3)
        for step in range(3):
            parts = trainer.global_batch(step * BATCH)
            if step == 1:
                parts[0].target[0] = NAN
            trainer.step(parts)
        trainer._save_and_wait()
        path, _ = latest(tmp_path / "checkpoints")
        assert path is not None
        assert (read_manifest(path)["steps"], read_manifest(path)["skipped_steps"]) == (3, 1)
        again = make_trainer(tmp_path, processes, max_skipped_steps=3)
        again._resume()
        assert again.step.guard.skipped == 1
        for one, other in zip(trainer.step.model.parameters(), again.step.model.parameters(), strict=True):
            assert trainer.step.optimizer.state[one]["step"] == again.step.optimizer.state[other]["step"] == 2
        for each in (trainer, again):
            each.step(each.global_batch(3 * BATCH))
        assert same(everything(trainer), everything(again))
        trainer.checkpoints.close()
        again.checkpoints.close()


def examine_with_a_bad_sample(path: Path) -> list[StepFinding]:
    with start_processes("cpu") as processes:
        trainer = make_trainer(path, processes, accumulate=2)
        trainer.step.model.train()
        parts = trainer.global_batch(BATCH)
        if processes.rank == 1:
            parts[1] = replace(parts[1], target=parts[1].target.clone())
            parts[1].target[2, 0, 0, 0] = NAN
        timesteps = lambda batch: batch.position  # noqa: E731
        found = watch_step(trainer.step.model, parts, trainer.step.losses, timesteps, processes.rank)
        trainer.checkpoints.close()
        return found


def test_process_part_and_sample_are_named(tmp_path: Path) -> None:
    findings = [found for each in run_in_processes(examine_with_a_bad_sample, 2, tmp_path) for found in each]
    assert [(finding.rank, finding.part) for finding in findings] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert findings[-1].place == "the target view (1 of 576 values)"
    # BatchNorm's backward pass carries it to the other process.
    assert findings[1].place is not None
    assert findings[1].place.startswith("the gradient at the output of encoder.")
    assert findings[0].place is findings[2].place is None
    bad = findings[-1]
    assert [loss != loss for loss in bad.losses] == [False, False, True]
    text = summarise(findings, 2)
    assert text.startswith("process 1 of 2 (and then 0): first the target view")
    assert f"timesteps {bad.timesteps[2]} (image {bad.indices[2]})" in text
    assert text.endswith(")"), "one sample is bad, and one is shown"


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("encoder.fc.weight", "the output of encoder.fc"),
        ("decoder.conv_in.weight", "the output of decoder.conv_in"),
        ("decoder.conv_out.weight", "the output of decoder.conv_out"),
    ],
)
def test_the_first_module_is_named(tmp_path: Path, weight: str, place: str) -> None:
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes)
        with torch.no_grad():
            trainer.step.model.get_parameter(weight).to_local().fill_(3e38)
        (finding,) = examine_step(trainer.step, trainer.global_batch(0))
        assert finding.place is not None
        assert finding.place.startswith(place)
        trainer.checkpoints.close()


def diverging(path: Path) -> dict[str, Any]:
    return tiny_tree(path, 50, encoder_lr=1e30, decoder_lr=1e30, warmup_images=0, log_every_images=5 * BATCH)


def diverge(path: Path) -> str:
    with pytest.raises(TrainingError) as raised:
        run_tiny(diverging(path))
    return str(raised.value)


def test_a_diverging_run_is_kept_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = diverge(tmp_path / "run")
    assert "in step 1 (from 0, after 12 images)" in said, "found at the log of step 4"
    assert "first the output of encoder." in said
    kept = json.loads((tmp_path / "run" / "failures" / f"images-{BATCH:012d}" / "failure.json").read_text())
    assert kept["config"]["run"]["seed"] == 3
    assert kept["findings"][0]["positions"] == list(range(BATCH, 2 * BATCH))
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    # The same step: module, counts, samples.
    assert kept["findings"][0]["place"] in shown
    assert said.split("did not change the weights: ")[1].split(". `soda-fast")[0] in shown
    for index, timestep in zip(kept["findings"][0]["indices"], kept["findings"][0]["timesteps"], strict=True):
        assert f"{index:>9} {timestep:>8}" in shown


def test_a_failure_goes_when_the_next_one_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one of other images is not replayed."""
    root = tmp_path / "run" / "failures"
    diverge(tmp_path / "run")
    older = root / f"images-{9 * BATCH:012d}"
    (root / f"images-{BATCH:012d}").rename(older)
    before = (older / failures.NAME).read_bytes()

    (root / ".new").touch()  # where the next one cannot be written
    assert "it cannot be repeated later" in diverge(tmp_path / "run")
    assert (older / failures.NAME).read_bytes() == before
    (root / ".new").unlink()
    assert "repeats the step" in diverge(tmp_path / "run")
    (newer,) = root.iterdir()
    assert newer.name == f"images-{BATCH:012d}"
    kept = json.loads((newer / failures.NAME).read_text())
    kept["images"]["sha256"] = "0"
    (newer / failures.NAME).write_text(json.dumps(kept))
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run")]) == 2
    assert "holds other images, or in another order, than the step was trained on" in capsys.readouterr().err


def test_want_of_memory_in_the_examination_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Watched modules need more than compiled ones: here an allocation that cannot be made."""

    def too_large(*_: object) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(faults, "watch_step", too_large)
    said = diverge(tmp_path / "run")
    assert "became NaN or infinite in step 1" in said
    assert "memory did not suffice to look at single modules" in said
    monkeypatch.undo()
    assert main(["replay", str(tmp_path / "run")]) == 0
    assert "the output of encoder." in capsys.readouterr().out


def test_a_diverging_run_of_several_processes(tmp_path: Path) -> None:
    one, two = run_in_processes(diverge, 2, tmp_path / "run")
    assert one == two
    assert "process 0 of 2 (and then 1): first the output of encoder." in one
    assert {finding["rank"] for finding in failures.newest(tmp_path / "run" / "failures").findings} == {0, 1}


def diverge_in_pairs(path: Path) -> int:
    config = path.with_suffix(".yaml")
    config.write_text(str(diverging(path) | {"parallel": {"strategy": "hsdp", "shard_processes": 2}}))
    return main(["train", str(config)])


def test_replay_on_other_processes_than_the_run_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """hsdp in groups of two, replayed by one; and by a number that cannot share out the batch."""
    assert run_in_processes(diverge_in_pairs, 2, tmp_path / "run") == [1, 1]
    kept = failures.newest(tmp_path / "run" / "failures").findings
    assert main(["replay", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "hsdp in groups of 2 needs other processes: fsdp" in shown
    assert "first the output of encoder." in shown
    for finding in kept:
        for index, timestep in zip(finding["indices"], finding["timesteps"], strict=True):
            assert f"{index:>9} {timestep:>8}" in shown
    with start_processes("cpu") as processes, pytest.raises(ValueError, match="replay it on one"):
        for_processes(config_from_tree(diverging(tmp_path)), replace(processes, world_size=5))


def test_replay_without_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 1))
    assert main(["replay", str(tmp_path / "run")]) == 2
    assert "has no recorded failure" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[" * 100_000, '{"config": {}}', "3"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / f"images-{BATCH:012d}").mkdir()
    (tmp_path / f"images-{BATCH:012d}" / "failure.json").write_text(content)
    with pytest.raises(ValueError, match=r"failure\.json cannot be read"):
        failures.newest(tmp_path)


def test_steps_left_out_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of the diverging run's steps are allowed; the third ends it."""
    tree = diverging(tmp_path / "run")
    tree["train"] |= {"max_skipped_steps": 6}
    with pytest.raises(TrainingError, match="in step 7 "):
        run_tiny(tree)
    assert "4 of the last steps left out" in capsys.readouterr().out
    assert [line["images_seen"] for line in read_metrics(tmp_path / "run")] == [5 * BATCH]
    shutil.rmtree(tmp_path / "run")
