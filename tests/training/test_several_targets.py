"""Several targets of a source: the loss by hand, what counts as an image, any number of processes, resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spawn import run_in_processes
from training.test_paper import tree as paper_tree
from training.tiny import BATCH, losses, read_metrics, run_tiny, tiny_tree, trainer_of, weights_hash

from soda_fast.config import config_from_tree
from soda_fast.describe import describe
from soda_fast.diffusion.loss import add_noise, draw_noising
from soda_fast.parallel import start_processes
from soda_fast.training.faults import examine_step
from soda_fast.training.trainer import Trainer


def tree(path: Path, steps: int, targets: int = 2, **train_keys: Any) -> dict[str, Any]:
    found = tiny_tree(path, steps, **train_keys)
    found["data"]["targets_per_source"] = targets
    return found


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    found = {name: p.grad.full_tensor().clone() for name, p in trainer.step.model.named_parameters()}
    trainer.step.optimizer.zero_grad(set_to_none=True)
    return found


def test_the_loss_is_the_mean_over_both_targets_told_the_same_z(tmp_path: Path) -> None:
    """By hand: z once, then each target for itself, denoised as the only one of a batch would be."""
    with start_processes("cpu") as processes:
        trainer = trainer_of(tree(tmp_path, 1), processes)
        trainer.step.model.train()
        (batch,) = trainer.global_batch(BATCH)
        found = trainer.step.losses(batch)
        assert found.shape == (2 * BATCH,)
        found.mean().backward()
        whole = gradients(trainer)

        z = trainer.step.model.encode(batch.source)
        by_hand = []
        for number in range(2):
            target = batch.target[number::2]
            places = batch.position + number * 2**48
            noising = draw_noising(3, places, (3, 8, 8), (1, 100), 0.1)
            x_t = add_noise(target, noising, trainer.step.alphabar)
            predicted = trainer.step.model.denoise(x_t, noising.t, z, noising.drop_mask, noising.dropout_seeds)
            by_hand.append((predicted - noising.noise).square().mean(dim=(1, 2, 3)))
            torch.testing.assert_close(found[number::2], by_hand[number])
        (sum(losses.mean() for losses in by_hand) / 2).backward()
        for name, gradient in gradients(trainer).items():
            torch.testing.assert_close(whole[name], gradient, msg=name)
        trainer.checkpoints.close()


def test_the_encoder_sees_each_source_once(tmp_path: Path) -> None:
    """Also its BatchNorm, whose statistics after the same step do not depend on the targets."""
    statistics = []
    with start_processes("cpu") as processes:
        for targets in (1, 3):
            trainer = trainer_of(tree(tmp_path / str(targets), 1, targets), processes)
            rows: list[int] = []
            trainer.step.model.encoder.register_forward_hook(lambda _, inputs, z, rows=rows: rows.append(len(z)))
            trainer.step(trainer.global_batch(0))
            assert rows == [BATCH]
            statistics.append({name: value.clone() for name, value in trainer.step.model.encoder.named_buffers()})
            trainer.checkpoints.close()
    for name, value in statistics[0].items():
        assert torch.equal(value, statistics[1][name]), name


def train(tree: dict[str, Any]) -> None:
    run_tiny(tree)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_tiny(tree(path, 4))
    return path


def test_an_image_is_a_source(whole_run: Path) -> None:
    """Steps, warm-up and rates count what they have always counted."""
    lines = [line for line in read_metrics(whole_run) if "encoder_lr" in line]
    assert [line["images_seen"] for line in lines] == [BATCH, 2 * BATCH, 3 * BATCH, 4 * BATCH]
    np.testing.assert_allclose([line["encoder_lr"] for line in lines], [8e-4 * step / 5 for step in (1, 2, 3, 4)])


def test_two_processes_learn_the_same(whole_run: Path, tmp_path: Path) -> None:
    run_in_processes(train, 2, tree(tmp_path / "two", 4))
    assert losses(tmp_path / "two") == pytest.approx(losses(whole_run), rel=1e-4)


def test_with_layers_masked_replicated_and_computed_again(tmp_path: Path) -> None:
    """The paper's options, and other ways to the same losses."""

    def paper(path: Path) -> dict[str, Any]:
        found = paper_tree(path)
        found["data"]["targets_per_source"] = 3
        found["train"]["images"] = 3 * BATCH
        return found

    run_tiny(paper(tmp_path / "one"))
    others = paper(tmp_path / "two") | {"parallel": {"strategy": "ddp"}, "perf": {"activation_checkpointing": True}}
    run_in_processes(train, 2, others)
    assert len(losses(tmp_path / "one")) == 3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(whole_run: Path, tmp_path: Path) -> None:
    for steps in (1, 3, 4):
        run_tiny(tree(tmp_path / "parts", steps))
    assert weights_hash(tmp_path / "parts") == weights_hash(whole_run)


def test_another_number_of_targets_is_another_training(whole_run: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.targets_per_source = 2, not 3"):
        run_tiny(tree(whole_run, 6, targets=3))


def test_pictures_show_the_first_target(whole_run: Path, tmp_path: Path) -> None:
    grids = []
    with start_processes("cpu") as processes:
        for targets in (1, 3):
            trainer = trainer_of(tree(tmp_path / str(targets), 1, targets), processes)
            grids.append(trainer.inspections.samples.grid(trainer.step.ema.model))
            trainer.checkpoints.close()
    assert np.array_equal(*grids)


def test_a_repeated_step_lists_every_target(tmp_path: Path) -> None:
    with start_processes("cpu") as processes:
        trainer = trainer_of(tree(tmp_path, 1, accumulate=2), processes)
        findings = examine_step(trainer.step, trainer.global_batch(BATCH))
        trainer.checkpoints.close()
    for part, finding in enumerate(findings):
        assert finding.place is None
        samples = BATCH + np.arange(6) + 6 * part
        assert finding.positions == np.repeat(samples, 2).tolist()
        places = samples[:, None] + [0, 2**48]
        steps = draw_noising(3, torch.from_numpy(places.flatten()), (1, 1, 1), (1, 100), 0.1).t
        assert finding.timesteps == steps.tolist()
        assert len(finding.losses) == 12


def test_a_dry_run_says_what_an_image_is(tmp_path: Path) -> None:
    assert "GFLOP per image of 2 targets (" in describe(config_from_tree(tree(tmp_path, 1)))
    assert "GFLOP per image (" in describe(config_from_tree(tree(tmp_path, 1, targets=1)))
