"""`soda-fast train`: set up the processes and the data, then let the trainer run."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.parallel import start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.training.trainer import Trainer


def train(config: Config) -> None:
    """Train a run to its end, from its newest checkpoint if it has one.

    Raises:
        ValueError: the data set, the run directory or the number of processes does not fit the configuration.
        NonFiniteError: the training diverged.
    """
    if config.train.deterministic:
        # cuBLAS is deterministic only with a workspace of fixed size, which it reads before its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cudnn.benchmark = True
    dataset = load_dataset(config.data)
    config = resolve(config, dataset)
    run = RunDirectory(Path(config.run.dir))
    with start_processes() as processes:
        processes.on_main(lambda: run.create(config))
        Trainer(config, dataset, processes, run).train()


def resolve(config: Config, dataset: Dataset) -> Config:
    """Fill in what only the data set knows."""
    return replace(config, data=replace(config.data, mean=dataset.mean, std=dataset.std))
