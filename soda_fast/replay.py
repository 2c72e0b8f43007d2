"""`soda-fast replay`: the step at which a training stopped, once more, with an eye on every module."""

from soda_fast import failures
from soda_fast.checkpoint_reader import load_tensors
from soda_fast.data import load_dataset
from soda_fast.parallel import start_processes
from soda_fast.run_directory import RunDirectory
from soda_fast.training.diagnosis import summarise
from soda_fast.training.faults import examine_step
from soda_fast.training.trainer import Trainer


def replay(run: RunDirectory) -> None:
    """Repeat the step of the recorded failure with its weights, images, views, noise, dropout; print what is found.

    Nothing is written. On another number of processes than the run's the same samples meet, differently shared out.

    Raises:
        ValueError: no failure is recorded, or it cannot be read.
    """
    failure = failures.newest(run.failures)
    dataset = load_dataset(failure.config.data)
    with start_processes() as processes:
        trainer = Trainer(failure.config, dataset, processes, run)
        try:
            tensors = trainer.state.tensors()
            load_tensors(failure.weights, {name: t for name, t in tensors.items() if name.startswith("model.")})
            findings = examine_step(trainer, failure.images_seen)
        finally:
            trainer.checkpoints.close()
        if not processes.is_main:
            return
        step = failure.images_seen // trainer.batch_images
        print(f"step {step} (counted from 0, after {failure.images_seen:,} images) of {run.path}")
        print(summarise(findings, processes.world_size))
        for finding in findings:
            print(f"process {finding.rank}: {finding.place or 'all values finite'}")
            print(f"  {'position':>12} {'image':>9} {'timestep':>8} {'loss':>12}")
            rows = zip(finding.positions, finding.indices, finding.timesteps, finding.losses, strict=True)
            for position, index, timestep, loss in rows:
                print(f"  {position:>12} {index:>9} {timestep:>8} {loss:>12.6g}")
