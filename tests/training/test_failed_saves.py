"""Saves that fail on one process, in copying the state or in writing it: all processes draw the same conclusion."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import forked
import pytest
from spawn import run_in_processes
from torch.distributed.checkpoint.staging import DefaultStager
from training.tiny import BATCH, make_trainer, tiny_tree

from soda_fast.parallel import start_processes
from soda_fast.training import checkpoint, checkpoint_files, shared_folder
from soda_fast.training.checkpoint import SaveError
from soda_fast.training.checkpoint_files import checkpoints
from soda_fast.training.signals import StopRequest
from soda_fast.training.state import TrainState
from soda_fast.training.trainer import Trainer

COPY_ERRORS = (
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    RuntimeError("CUDA error: out of memory"),
)
TWO_SAVES_OF_SIX_STEPS = {"images": 6 * BATCH, "save_every_images": 2 * BATCH}


def fail_copying(trainer: Trainer, *errors: BaseException | None) -> None:
    """Let this process's next copies of the state end in these errors; None: it succeeds."""
    left, real = list(errors), trainer.checkpoints._stage

    class FailingStager(DefaultStager):
        def stage(self, state_dict: Any, **kwargs: Any) -> Any:
            error = left.pop(0) if left else None
            if error is not None:
                raise error
            return super().stage(state_dict, **kwargs)

    def stage(state: TrainState) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "DefaultStager", FailingStager)
            return real(state)

    trainer.checkpoints._stage = stage  # type: ignore[method-assign]


def fail_writing() -> None:
    """Let this process find its disk full."""

    def fingerprint(path: Path) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    checkpoint_files.fingerprint = fingerprint


def train(trainer: Trainer) -> list[str]:
    """To the end; what was warned of, and the error at last if there was one."""
    told: list[str] = []
    trainer.metrics.warn = told.append  # type: ignore[method-assign, assignment]
    try:
        trainer.train(StopRequest())
    except SaveError as error:
        told.append(f"ended: {error}")
    finally:
        trainer.checkpoints.close()
    return [text for text in told if "could not be written" in text]


def test_a_state_that_cannot_be_copied_is_a_failed_save(tmp_path: Path) -> None:
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path, processes, images=6 * BATCH, save_every_images=BATCH)
        fail_copying(trainer, COPY_ERRORS[0], None, COPY_ERRORS[1], None, COPY_ERRORS[2])
        told = train(trainer)
    assert all("process 0 could not copy the state" in text and "training goes on" in text for text in told)
    assert [text.split("images")[0] for text in told] == [f"the checkpoint of {BATCH * n} " for n in (1, 3, 5)]
    assert "out of memory" in told[2]
    assert [int(path.name[-12:]) // BATCH for path in checkpoints(tmp_path / "checkpoints")] == [4, 6]


def two_run_directories(folder: str) -> tuple[str, str]:
    """What each process is told at the start, and of a save, where each has a run directory of its own."""
    shared_folder.PATIENCE_S = 0.2
    with start_processes("cpu") as processes:
        mine = Path(folder) / str(processes.rank)
        trainer = make_trainer(mine, processes, images=BATCH)
        refusal = ""
        try:
            trainer.train(StopRequest())
        except ValueError as error:
            refusal = str(error)
        try:
            trainer.step.images_seen = BATCH
            trainer.checkpoints.save_and_wait(trainer.step.progress, trainer.step.state)
        except SaveError as error:
            return refusal, str(error)
        finally:
            trainer.checkpoints.close()
    return refusal, ""


def test_a_run_directory_that_is_not_shared(tmp_path: Path) -> None:
    for refusal, failure in run_in_processes(two_run_directories, 2, str(tmp_path)):
        assert "is not the same folder on process 1 as on process 0; it must be on a file system" in refusal
        assert "__1_0.distcp, which a process has written, is not in" in failure
    assert checkpoints(tmp_path / "0" / "checkpoints") == []
    assert not list(tmp_path.glob("0/.shared-*"))


def failing_together(folder: str) -> dict[str, list[str]]:
    """What each process is told where process 1 alone fails."""
    told: dict[str, list[str]] = {}
    with start_processes("cpu") as processes:
        for name, failures in (("once", 1), ("always", 3)):
            trainer = make_trainer(Path(folder) / name, processes, **TWO_SAVES_OF_SIX_STEPS)
            if processes.rank == 1:
                fail_copying(trainer, *[MemoryError()] * failures)
            told[name] = train(trainer)
        told["last"] = save_last(make_trainer(Path(folder) / "last", processes))
    return told


def save_last(trainer: Trainer) -> list[str]:
    """A last save that fails on process 1, and of which process 0 knows early, because it looks in between."""
    trainer.step(trainer.global_batch(0))
    if not trainer.processes.is_main:
        fail_writing()
    trainer.checkpoints.save(trainer.step.progress, trainer.step.state)
    told: list[str] = []
    if trainer.processes.is_main:
        assert trainer.checkpoints._pending is not None
        trainer.checkpoints._pending.outcome.result(forked.PATIENCE_S)
        told = trainer.checkpoints.take_notices()
    try:
        trainer.checkpoints.save_and_wait(trainer.step.progress, trainer.step.state)
    except SaveError as error:
        told.append(f"ended: {error}")
    trainer.checkpoints.close()
    return told


def test_processes_agree_on_a_save_that_failed_on_one(tmp_path: Path) -> None:
    first, second = run_in_processes(failing_together, 2, str(tmp_path))
    (notice,) = first["once"]
    assert "process 1 could not copy the state: MemoryError" in notice
    assert "training goes on" in notice
    assert len(checkpoints(tmp_path / "once" / "checkpoints")) == 2

    assert first["always"][-1] == second["always"][-1]
    assert "saving failed 3 times in a row; there is none yet" in first["always"][-1]

    # Nobody has tried again alone, or left alone.
    assert "training goes on" in first["last"][0]
    assert first["last"][-1] == second["last"][-1]
    assert "No space left on device" in first["last"][-1]
    assert "saving failed 2 times in a row" in first["last"][-1]
    assert not any(checkpoints(tmp_path / name / "checkpoints") for name in ("always", "last"))


def test_the_last_save_that_fails_is_told_once(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 2)
    processes = forked.train_together(tree, 2, limits={1: {resource.RLIMIT_FSIZE: 50_000}})
    assert [forked.ends_with(process) for process in processes] == [1, 1], forked.log(tree)
    told = forked.log(tree)
    assert told.count("soda-fast:") == 1
    assert "there is none yet; free space" in told
    assert "lost" not in told
    assert "Traceback" not in told
