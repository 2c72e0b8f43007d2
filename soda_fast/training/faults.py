"""What is kept and said when training fails: values that are not finite, memory that does not suffice."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from soda_fast import failures
from soda_fast.config import Config
from soda_fast.data import Batch
from soda_fast.diffusion import draw_noising
from soda_fast.errors import TrainingError
from soda_fast.parallel import Processes
from soda_fast.training.checkpoint import SaveError, save_tensors
from soda_fast.training.diagnosis import StepFinding, summarise, watch_step
from soda_fast.training.finite import NonFiniteError
from soda_fast.training.step import TrainStep

if TYPE_CHECKING:
    from soda_fast.training.trainer import Trainer

_NO_MEMORY = (
    *("can't allocate memory", "out of memory", "Cannot allocate memory"),
    *("Can't allocate", "CUDA allocation failed", "bad_alloc"),  # DALI
    "ALLOC_FAILED",  # cuBLAS and cuDNN: CUBLAS_STATUS_ALLOC_FAILED, CUDNN_STATUS_ALLOC_FAILED
    "unable to find an engine to execute this computation",  # cuDNN: none has the workspace that it needs
)


def examine_step(step: TrainStep, parts: list[Batch]) -> list[StepFinding]:
    """Repeat a step on this process's parts of its batch; the findings of all processes. A collective.

    step: with the weights from before, which stay.
    """
    config = step.config

    def timesteps(batch: Batch) -> torch.Tensor:
        shape, diffusion = tuple(batch.target.shape[1:]), config.diffusion
        where = batch.target_position
        return draw_noising(config.run.seed, where, shape, diffusion.trained_timesteps(), diffusion.drop_probability).t

    step.model.train()
    mine = watch_step(step.model, parts, step.losses, timesteps, step.processes.rank)
    step.optimizer.zero_grad(set_to_none=True)
    return [finding for findings in step.processes.gather(mine) for finding in findings]


def record_non_finite(trainer: "Trainer", error: NonFiniteError) -> TrainingError:
    """Keep what is needed to repeat the step, find out where it went wrong, and say so. A collective."""
    run, processes, images_seen = trainer.run, trainer.processes, error.images_seen
    weights = {name: value for name, value in trainer.step.state.tensors().items() if name.startswith("model.")}
    problem = ""
    try:
        processes.on_main(lambda: failures.prepare(run.failures))
        save_tensors(failures.new_path(run.failures) / "weights", weights)
    except (SaveError, OSError) as kept:
        problem = str(kept)
        processes.on_main(lambda: failures.discard(run.failures))
    # Before the step is examined, which may end in want of memory: modules are watched without torch.compile.
    problem = problem or processes.on_main(lambda: _write(trainer, images_seen, []))
    try:
        findings = examine_step(trainer.step, trainer.global_batch(images_seen))
        found = summarise(findings, processes.world_size)
        problem = problem or processes.on_main(lambda: _write(trainer, images_seen, findings))
    except (MemoryError, RuntimeError) as exhausted:
        if not is_out_of_memory(exhausted):
            raise
        found = "where could not be found out, because memory did not suffice to look at single modules"
    newest = trainer.checkpoints.last_good()
    last = f"the last good checkpoint is of {newest:,} images" if newest is not None else "there is no checkpoint yet"
    number = images_seen // trainer.batch_images
    later = f"it cannot be repeated later ({problem})" if problem else f"`soda-fast replay {run.path}` repeats the step"
    return TrainingError(
        f"the loss or its gradient became NaN or infinite in step {number} (from 0, after {images_seen:,} images), "
        f"which did not change the weights: {found}. {later}; {last}. "
        "Lower train.encoder_lr and train.decoder_lr or lengthen the warm-up (with --accept-changes to go on from the "
        "checkpoint), or let train.max_skipped_steps leave out a few such steps"
    )


def _write(trainer: "Trainer", images_seen: int, findings: list[StepFinding]) -> str:
    """Keep what is known of the failure; returns what is wrong with that, for a message."""
    try:
        images = trainer.checkpoints.description["images"]
        failures.write(trainer.run.failures, trainer.config, images_seen, images, findings)
    except OSError as error:
        return str(error)
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on the GPU or beside it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
    )


@contextmanager
def out_of_memory_explained(config: Config, processes: Processes, folder: Path) -> Iterator[None]:
    """Turn an error of memory into a `TrainingError` that says what to lower, and keep a dump in `folder`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(_memory_text(error, config, processes, folder)) from error


def _memory_text(error: BaseException, config: Config, processes: Processes, folder: Path) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    share = config.train.global_batch_images // processes.world_size // config.train.accumulate
    ways = []
    if not config.perf.activation_checkpointing:
        ways.append("perf.activation_checkpointing=true (same results, a slower step)")
    if config.perf.precision == "fp32":
        ways.append("perf.precision=bf16")
    if config.parallel.strategy != "fsdp" and processes.world_size > 1:
        ways.append("parallel.strategy=fsdp")
    if config.parallel.unit_mib != 0:
        ways.append("parallel.unit_mib=0 (same results, smaller units of weights and gradients)")
    ways.append(
        f"more processes, or train.accumulate above {config.train.accumulate}: fewer than {share} images at once"
    )
    if config.data.targets_per_source > 1:
        ways.append(f"data.targets_per_source below {config.data.targets_per_source} (another training: start anew)")
    ways.append(f"train.global_batch_images below {config.train.global_batch_images} (another training: start anew)")
    try:
        kept = f"what filled the memory is kept in {_write_memory_dump(folder, processes, reason)}"
    except OSError as problem:
        kept = f"no memory dump could be kept ({problem.strerror})"
    where = f"process {processes.rank} of {processes.world_size}"
    return f"out of memory on {where}: {reason}. Try, in this order: {'; '.join(ways)}; {kept}"


def _write_memory_dump(folder: Path, processes: Processes, reason: str) -> Path:
    """On a GPU the allocator's segments for https://pytorch.org/memory_viz, and its summary; else a process's size."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"process-{processes.rank}.json"
    found: dict[str, object] = {
        "reason": reason,
        "peak_resident_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    found["address_space_limit_bytes"] = resource.getrlimit(resource.RLIMIT_AS)[0]
    if processes.device.type == "cuda":
        found["gpu_bytes"] = torch.cuda.memory_stats(processes.device)
        (folder / f"process-{processes.rank}.txt").write_text(torch.cuda.memory_summary(processes.device))
        torch.cuda.memory._dump_snapshot(str(folder / f"process-{processes.rank}.pickle"))
    path.write_text(json.dumps(found, indent=1))
    return path
