"""`soda-fast replay`: the step at which a training stopped, once more, with an eye on every module."""

from dataclasses import replace

from soda_fast import failures
from soda_fast.checkpoint_reader import load_tensors
from soda_fast.config import Config, warmup_images
from soda_fast.data import Dataset, load_dataset
from soda_fast.errors import TrainingError
from soda_fast.parallel import Processes, start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.training.assembly import fingerprint_of, global_batch
from soda_fast.training.determinism import kernel_choice
from soda_fast.training.diagnosis import StepFinding, summarise
from soda_fast.training.faults import examine_step, is_out_of_memory
from soda_fast.training.step import TrainStep


def replay(run: RunDirectory) -> None:
    """Repeat the step of the recorded failure with its weights, images, views, noise, dropout; print what is found.

    Nothing is written. On another number of processes than the run's the same samples meet, differently shared out.

    Raises:
        ValueError: no failure is recorded, it cannot be read, the images are others than in training, or these
            processes cannot share out the batch.
        TrainingError: memory does not suffice.
    """
    failure = failures.newest(run.failures)
    with kernel_choice(failure.config.train.deterministic):
        _replay(run, failure)


def _replay(run: RunDirectory, failure: failures.Failure) -> None:
    dataset = load_dataset(failure.config.data)
    _check_images(failure, dataset)
    with start_processes() as processes:
        config = for_processes(failure.config, processes)
        try:
            findings = _examine(failure, config, dataset, processes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the step of {run.path} does not fit into the memory of {processes.world_size} processes ({error}); "
                "replay it with torchrun on as many as trained"
            ) from error
        if not processes.is_main:
            return
        step = failure.images_seen // config.train.global_batch_images
        print(f"step {step} (counted from 0, after {failure.images_seen:,} images) of {run.path}")
        print(summarise(findings, processes.world_size))
        for finding in findings:
            print(f"process {finding.rank}: {finding.place or 'all values finite'}")
            print(f"  {'position':>12} {'image':>9} {'timestep':>8} {'loss':>12}")
            rows = zip(finding.positions, finding.indices, finding.timesteps, finding.losses, strict=True)
            for position, index, timestep, loss in rows:
                print(f"  {position:>12} {index:>9} {timestep:>8} {loss:>12.6g}")


def _check_images(failure: failures.Failure, dataset: Dataset) -> None:
    now = {"count": len(dataset.train), "sha256": fingerprint_of(failure.config, dataset)}
    if failure.images != now:
        raise ValueError(
            f"data.root={failure.config.data.root} holds other images, or in another order, than the step was trained "
            f"on ({failure.images['count']:,} then, {now['count']:,} now); restore them to replay it"
        )


def for_processes(config: Config, processes: Processes) -> Config:
    """The run's configuration, with the model spread in a way that these processes allow.

    Raises:
        ValueError: they cannot share out the run's batch.
    """
    parts = processes.world_size * config.train.accumulate
    if config.train.global_batch_images % parts:
        raise ValueError(
            f"the run's batch of {config.train.global_batch_images} images in {config.train.accumulate} parts "
            f"(train.accumulate) cannot be shared out among {processes.world_size} processes; replay it on one, or on "
            "as many as trained"
        )
    shard = config.parallel.shard_processes or processes.local_world_size
    if config.parallel.strategy == "hsdp" and processes.world_size % shard:
        if processes.is_main:
            print(f"parallel.strategy hsdp in groups of {shard} needs other processes: fsdp, with the same weights")
        return replace(config, parallel=replace(config.parallel, strategy="fsdp", shard_processes=None))
    return config


def _examine(failure: failures.Failure, config: Config, dataset: Dataset, processes: Processes) -> list[StepFinding]:
    step = TrainStep(config, processes, warmup_images(config, len(dataset.train)))
    tensors = step.state.tensors()
    load_tensors(failure.weights, {name: t for name, t in tensors.items() if name.startswith("model.")})
    return examine_step(step, global_batch(config, dataset, processes, failure.images_seen))
