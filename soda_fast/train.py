"""`soda-fast train`: set up the processes and the data, then let the trainer run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from soda_fast.build import require_cameras
from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.errors import Stopped
from soda_fast.parallel import Processes, excuse, start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.run_lock import RunLock
from soda_fast.training.assembly import fingerprint_of
from soda_fast.training.determinism import kernel_choice
from soda_fast.training.faults import out_of_memory_explained, record_non_finite
from soda_fast.training.finite import NonFiniteError
from soda_fast.training.signals import StopRequest
from soda_fast.training.trainer import Trainer


def train(config: Config, accept_changes: bool = False, stop: StopRequest | None = None) -> None:
    """Train a run to its end, from its newest checkpoint if it has one.

    Args:
        accept_changes: go on from a checkpoint although keys that shape what is learnt have changed.
        stop: already listening; None: listen from now on.

    Raises:
        ValueError: the data set, the run directory or the number of processes does not fit the configuration.
        TrainingError: the training diverged, memory did not suffice, or another process was lost.
        SaveError: checkpoints could not be written.
        Stopped: by SIGTERM, SIGUSR1 or Ctrl-C; there is a checkpoint of the step that was reached, if one was made.
    """
    with (
        kernel_choice(config.train.deterministic),
        StopRequest() if stop is None else nullcontext(stop) as stop,
    ):
        try:
            _train(config, accept_changes, stop)
        except Stopped as error:
            excuse(error)
            raise


def _train(config: Config, accept_changes: bool, stop: StopRequest) -> None:
    dataset = _open(config)
    config = resolve(config, dataset)
    run = RunDirectory(Path(config.run.dir))
    with (
        start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes,
        _claimed(run, config, accept_changes, processes) as warnings,
        out_of_memory_explained(config, processes, run.memory),
    ):
        processes.require_equal(
            fingerprint_of(config, dataset), "the training images", "every machine needs the same in data.root"
        )
        trainer = Trainer(config, dataset, processes, run, accept_changes)
        for warning in warnings:
            trainer.metrics.warn(warning)
        try:
            trainer.train(stop)
        except NonFiniteError as error:
            raise record_non_finite(trainer, error) from error
        finally:
            trainer.checkpoints.close()


def _open(config: Config) -> Dataset:
    dataset = load_dataset(config.data)
    if config.model.pose != "none":
        require_cameras(config, dataset.train_cameras)
        if dataset.test is not None:  # now, rather than when the trained model is evaluated
            require_cameras(config, dataset.test_cameras)
    return dataset


@contextmanager
def _claimed(run: RunDirectory, config: Config, accept_changes: bool, processes: Processes) -> Iterator[list[str]]:
    """The run directory, made and locked, for this training alone; the main process's warnings."""
    lock = RunLock(run.path)
    warnings: list[str | None] = []

    def claim() -> None:
        run.make()
        warnings.append(lock.acquire())
        warnings.append(run.check_changes(config, accept_changes))

    try:
        processes.on_main(claim)
        yield [warning for warning in warnings if warning]
    finally:
        lock.release()


def resolve(config: Config, dataset: Dataset) -> Config:
    """Fill in what only the data set knows."""
    return replace(config, data=replace(config.data, mean=dataset.mean, std=dataset.std))
