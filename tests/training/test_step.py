"""The step by itself: what a training repeats, without images, files or anybody to talk to on the host."""

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn
from training.tiny import BATCH, tiny_tree

from soda_fast.config import config_from_tree
from soda_fast.data import Batch
from soda_fast.parallel import Processes, start_processes
from soda_fast.training.finite import NonFiniteError
from soda_fast.training.state import Progress
from soda_fast.training.step import TrainStep


def noise(value: float = 0.5) -> list[Batch]:
    """One part. value: of a pixel."""
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(BATCH, 3, 8, 8, generator=generator) for _ in range(2))
    source[0, 0, 0, 0] = value
    numbers = torch.arange(BATCH)
    return [Batch(source, target, numbers, numbers, numbers)]


def test_a_step_counts_its_images_and_needs_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates rise with its count."""

    def refuse(_: Processes) -> NoReturn:
        raise AssertionError("a group for the host's own messages")

    monkeypatch.setattr(Processes, "host_group", refuse)
    monkeypatch.chdir(tmp_path)
    config = config_from_tree(tiny_tree(tmp_path / "run", 2))
    rates = []
    with start_processes("cpu") as processes:
        step = TrainStep(config, processes, warmup_images=2 * BATCH)
        for _ in range(3):
            step(noise())
            rates.append(step.optimizer.param_groups[0]["lr"] / config.train.encoder_lr)
        assert step.progress == Progress(images_seen=3 * BATCH, steps=3)
    assert rates == [0.5, 1, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_step_goes_on_where_another_one_stood(tmp_path: Path) -> None:
    """One step left out is allowed, so the next one is the end, and changes nothing: BatchNorm's statistics neither."""
    config = config_from_tree(tiny_tree(tmp_path, 4, max_skipped_steps=1))
    with start_processes("cpu") as processes:
        one, other = (TrainStep(config, processes, warmup_images=0) for _ in range(2))
        one(noise())
        one(noise(torch.nan))
        assert one.guard.check() == 1
        with torch.no_grad():
            stored = one.state.tensors()
            for name, tensor in other.state.tensors().items():
                tensor.copy_(stored[name])
        other.resume(one.progress)
        assert other.progress == one.progress == Progress(2 * BATCH, 2, 1)
        before = {name: buffer.clone() for name, buffer in one.model.named_buffers()}
        other(noise(torch.nan))
        for name, buffer in other.model.named_buffers():
            assert torch.equal(buffer, before[name]) or "num_batches" in name, name
        with pytest.raises(NonFiniteError) as raised:
            other.guard.check()
    assert raised.value.images_seen == 2 * BATCH


def test_a_step_looks_for_no_modules_and_trains_what_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking takes the host milliseconds in a model of several hundred modules."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the modules are walked through")

    config = config_from_tree(tiny_tree(tmp_path, 3))
    with start_processes("cpu") as processes:
        step = TrainStep(config, processes, warmup_images=0)
        step(noise())  # FSDP looks for its modules in the first one
        step.model.eval()
        step(noise())
        assert all(module.training for module in step.model.modules())
        for look in ("named_modules", "named_children"):
            monkeypatch.setattr(nn.Module, look, refuse)
        step(noise())
        monkeypatch.undo()
