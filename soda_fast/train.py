"""`soda-fast train`: set up the processes and the data, then let the trainer run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.parallel import Processes, start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.run_lock import RunLock
from soda_fast.training.faults import out_of_memory_explained, record_non_finite
from soda_fast.training.finite import NonFiniteError
from soda_fast.training.signals import StopRequest
from soda_fast.training.trainer import Trainer


def train(config: Config, accept_changes: bool = False) -> None:
    """Train a run to its end, from its newest checkpoint if it has one.

    Args:
        accept_changes: go on from a checkpoint although keys that shape what is learnt have changed.

    Raises:
        ValueError: the data set, the run directory or the number of processes does not fit the configuration.
        TrainingError: the training diverged, memory did not suffice, or another process was lost.
        SaveError: checkpoints could not be written.
        Stopped: by a signal; after SIGTERM, SIGUSR1 and Ctrl-C there is a checkpoint of the step that was reached.
    """
    if config.train.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, which it reads before its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cudnn.benchmark = True
    with StopRequest() as stop:
        dataset = load_dataset(config.data)
        config = resolve(config, dataset)
        run = RunDirectory(Path(config.run.dir))
        with (
            start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes,
            _locked(run, processes) as lock_warning,
            out_of_memory_explained(config, processes, run.memory),
        ):
            processes.on_main(lambda: run.create(config, accept_changes))
            trainer = Trainer(config, dataset, processes, run)
            if lock_warning:
                trainer.metrics.warn(lock_warning)
            try:
                trainer.train(stop)
            except NonFiniteError as error:
                raise record_non_finite(trainer, error) from error
            finally:
                trainer.checkpoints.close()


@contextmanager
def _locked(run: RunDirectory, processes: Processes) -> Iterator[str | None]:
    """The run directory, for this run alone; a warning if it could not be locked. Held by the main process."""
    lock = RunLock(run.path)
    warnings: list[str | None] = []

    def acquire() -> None:
        run.make()
        warnings.append(lock.acquire())

    processes.on_main(acquire)
    try:
        yield next(iter(warnings), None)
    finally:
        lock.release()


def resolve(config: Config, dataset: Dataset) -> Config:
    """Fill in what only the data set knows."""
    return replace(config, data=replace(config.data, mean=dataset.mean, std=dataset.std))
