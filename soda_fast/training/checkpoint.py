"""Checkpoints: torch.distributed.checkpoint, sharded, written beside the training, published whole or not at all.

`checkpoint_files` says what lies where. Nothing random is saved: it all follows from the seed and images_seen.
"""

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from soda_fast.checkpoint_reader import describe_failure, load_tensors
from soda_fast.errors import TrainingError
from soda_fast.parallel import Processes
from soda_fast.training import checkpoint_files as files
from soda_fast.training.state import Progress, TrainState


class SaveError(TrainingError):
    """Checkpoints could not be written."""


@dataclass
class _Pending:
    """A checkpoint that has been begun. outcome: what went wrong, the same on all processes; None if nothing did."""

    images_seen: int
    outcome: "Future[str | None]"
    told: bool = False


class CheckpointStore:
    """The checkpoints of one run. `save`, `save_and_wait` and `load_latest` are collectives.

    `save` copies the state to host memory and returns; files, checksums and the rename follow in the background, over a
    process group of its own. One checkpoint is written at a time: a save that finds another under way waits for it, and
    says so. A failed one, whether in copying or in writing, is a notice and leaves the earlier checkpoints alone.
    Processes agree on what has become of a checkpoint in the collectives alone; looking in between changes nothing.

    Args:
        root: the run's `checkpoints` folder.
        description: what the manifests say besides: the configuration, versions, and which images were trained on.
        keep, keep_every_images: which stay; see `checkpoint_files.to_remove`.
        max_failures: how many saves may fail in a row before `save` raises.
        accept_changes: load a checkpoint of other images too.
    """

    def __init__(
        self,
        root: Path,
        processes: Processes,
        description: dict[str, Any],
        keep: int,
        keep_every_images: int = 0,
        max_failures: int = 1,
        accept_changes: bool = False,
    ) -> None:
        self.root, self.processes, self.keep, self.keep_every_images = root, processes, keep, keep_every_images
        self.max_failures, self.description, self.accept_changes = max_failures, description, accept_changes
        self.newest_images: int | None = None
        self._failures = 0
        self._notices: list[str] = []
        self._pending: _Pending | None = None
        # Not the training's group: two threads' collectives on one group get into each other's way.
        self._group = processes.host_group()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, progress: Progress, state: TrainState) -> None:
        """Start writing a checkpoint; nothing to do if the newest one is of the same images_seen.

        Raises:
            SaveError: `max_failures` saves failed in a row.
        """
        if self.is_writing:
            assert self._pending is not None
            self._notices.append(
                f"the checkpoint of {self._pending.images_seen:,} images is still being written; training waits for it "
                "before the next one (train.save_every_images=auto, a longer interval or a faster disk avoids this)"
            )
        self._finish(self.max_failures)
        self._start(progress, state)

    def save_and_wait(self, progress: Progress, state: TrainState) -> None:
        """Save, and return when all of it is on disk; once more if a save of this very state has just failed.

        Raises:
            SaveError: it could not be written.
        """
        self._finish(self.max_failures)
        self._start(progress, state)
        self._finish(max_failures=1)

    def _start(self, progress: Progress, state: TrainState) -> None:
        if progress.images_seen == self.newest_images:
            return
        if self.processes.is_main:
            files.remove_folder(files.temporary_path(self.root, progress.images_seen))
        manifest = {"format": files.FORMAT, "conv_layout": "OHWI", **asdict(progress)}
        manifest |= {"processes": self.processes.world_size, **self.description}
        staged, problem = self._stage(state)
        self._pending = _Pending(
            progress.images_seen, self._thread.submit(self._write_and_publish, staged, problem, manifest)
        )

    def _stage(self, state: TrainState) -> tuple[dict[str, Any], str | None]:
        """A copy of this process's part of the state in host memory, or what is wrong: memory may not suffice."""
        try:
            return _copy_to_host(dict(state.tensors())), None
        except (OSError, MemoryError, RuntimeError) as error:
            return {}, f"process {self.processes.rank} could not copy the state: {describe_failure(error)}"

    def _finish(self, max_failures: int) -> None:
        """Wait until nothing is being written; raise a SaveError at the last allowed failure in a row."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        problem = pending.outcome.result()
        if problem is None:
            self.newest_images, self._failures = pending.images_seen, 0
            return
        self._failures += 1
        if self._failures >= max_failures:
            times = f" {self._failures} times in a row" if self._failures > 1 else ""
            raise SaveError(
                f"{_failed(pending.images_seen, problem)}: saving failed{times}; {self._remedy()}, and start the same "
                "command again"
            )
        self._tell(pending, problem)

    def _tell(self, pending: _Pending, problem: str) -> None:
        if not pending.told:
            pending.told = True
            self._notices.append(f"{_failed(pending.images_seen, problem)}; training goes on, {self._remedy()}")

    def close(self) -> None:
        """Wait for what is being written, whatever becomes of it.

        After a KeyboardInterrupt, which asks for the end at once, what is being written is left as it is.
        """
        if isinstance(sys.exception(), KeyboardInterrupt):
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        if self._pending is not None:
            self._pending.outcome.exception()
            self._pending = None
        self._thread.shutdown()

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written; processes may differ in it."""
        return self._pending is not None and not self._pending.outcome.done()

    def take_notices(self) -> list[str]:
        """What has happened since the last call and a user should know; looks, and does not wait."""
        pending = self._pending
        if pending is not None and pending.outcome.done() and self._failures + 1 < self.max_failures:
            problem = pending.outcome.result()
            if problem is not None:
                self._tell(pending, problem)
        notices, self._notices = self._notices, []
        return notices

    def last_good(self) -> int | None:
        """images_seen of the newest checkpoint that is known to be whole, for a message: processes may differ in it."""
        pending = self._pending
        if pending is not None and pending.outcome.done() and pending.outcome.exception() is None:
            return self.newest_images if pending.outcome.result() else pending.images_seen
        return self.newest_images

    def load_latest(self, state: TrainState) -> Progress | None:
        """Restore `state` from the newest whole checkpoint, of any number of processes; says where it stood.

        Raises:
            ValueError: there are checkpoints, but none is whole, or it is of other images or another model.
        """
        # One process looks: two that look at a changing disk may see different things.
        path, complaints = self.processes.on_main(lambda: files.latest(self.root))
        if path is None and complaints:
            raise ValueError(
                f"{'; '.join(complaints)}. No checkpoint in {self.root} is whole: restore one, or move this folder "
                "away to train from the start"
            )
        self._notices += complaints
        if path is not None:
            self._check_images(path)
        progress = None if path is None else load_checkpoint(path, state)
        self.processes.on_main(lambda: self._tidy(path))
        if progress is not None:
            self.newest_images = progress.images_seen
        return progress

    def _tidy(self, loaded: Path | None) -> None:
        # Newer ones than this failed their checks; they must not outlive the good ones when old ones are removed.
        files.set_newer_aside(self.root, loaded)
        # What a kill left of a save may be all that fits on the disk beside the good ones.
        files.remove_leftovers(self.root)

    def _check_images(self, path: Path) -> None:
        """Other images would come at every position to come, and nothing would say so."""
        saved, now = files.read_manifest(path).get("images"), self.description.get("images")
        if saved is None or now is None or saved == now:
            return
        text = (
            f"{path} was trained on {saved['count']:,} images, and data.root holds {now['count']:,}"
            if saved["count"] != now["count"]
            else f"{path} was trained on other images, or in another order, than data.root holds now"
        )
        if not self.accept_changes:
            raise ValueError(f"{text}; restore them, start anew in another run.dir, or go on with --accept-changes")
        self._notices.append(f"{text}; going on, as --accept-changes says")

    def _remedy(self) -> str:
        last = f"the last good one is of {self.newest_images:,} images" if self.newest_images else "there is none yet"
        return f"{last}; free space or mend {self.root}"

    def _write_and_publish(self, staged: dict[str, Any], problem: str | None, manifest: dict[str, Any]) -> str | None:
        """In the background: files, checksums, manifest, rename, removal of old ones. What went wrong, for everybody.

        problem: why this process has nothing to write.
        """
        temporary = files.temporary_path(self.root, manifest["images_seen"])
        mine: list[dict[str, Any]] = []
        # Before anybody writes: those with something to write would wait for those without.
        _, problem = self._agree(None, problem)
        if problem is None:
            try:
                dcp.save(staged, storage_writer=_writer(temporary), process_group=self._group)
                mine = [files.fingerprint(path) for path in sorted(temporary.glob(f"__{self.processes.rank}_*.distcp"))]
            except (CheckpointException, OSError, MemoryError) as error:
                problem = describe_failure(error)
        everyone, problem = self._agree(mine, problem)
        if self.processes.is_main and problem is None:
            entries = [entry for found in everyone for entry in found]
            problem = self._commit(temporary, {**manifest, "files": entries})
        _, problem = self._agree(None, problem)
        if problem is not None and self.processes.is_main:
            files.remove_folder(temporary)
        return problem

    def _agree(self, value: Any, problem: str | None) -> tuple[list[Any], str | None]:
        """What each process gives, and the first problem of any."""
        everyone: list[Any] = [None] * self.processes.world_size
        dist.all_gather_object(everyone, (value, problem), group=self._group)
        return [given for given, _ in everyone], next((text for _, text in everyone if text is not None), None)

    def _commit(self, temporary: Path, manifest: dict[str, Any]) -> str | None:
        try:
            manifest["files"] = [*manifest["files"], files.fingerprint(temporary / ".metadata")]
            absent = files.find_absent(temporary, manifest["files"])
            if absent is not None:
                return f"{absent}; is run.dir on a file system that all machines share?"
            files.publish(temporary, files.checkpoint_path(self.root, manifest["images_seen"]), manifest)
        except (OSError, MemoryError) as error:
            return describe_failure(error)
        try:
            files.prune(self.root, self.keep, self.keep_every_images)
        except OSError as error:
            self._notices.append(f"an old checkpoint could not be removed ({describe_failure(error)})")
        return None


def _failed(images_seen: int, problem: str) -> str:
    return f"the checkpoint of {images_seen:,} images could not be written ({problem})"


def _copy_to_host(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Copies in memory of their own, which nothing that happens to the tensors later reaches; done on return.

    The memory is not pinned: where there is not enough of it to pin, CUDA would keep the error for the training's next
    launch. So a GPU copies at a few GB/s, which for a small model with its average and moments (0.8 GB) takes tenths
    of a second.
    """
    # One for each copy: a stager of torch 2.11 copies once (https://github.com/pytorch/pytorch/issues/183413).
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
    )
    try:
        staged = stager.stage(tensors)
    finally:
        stager.close()
    assert isinstance(staged, dict), "staging is not synchronous"
    return staged


def _writer(folder: Path) -> dcp.FileSystemWriter:
    """Writes tensors one after the other: those that are copied ahead are waited for on a stream of GPU 0."""
    return dcp.FileSystemWriter(folder, per_thread_copy_ahead=0)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors into a folder and wait for it. A collective.

    Raises:
        SaveError: it could not be written.
    """
    try:
        dcp.save(tensors, storage_writer=_writer(path))
    except CheckpointException as error:
        raise SaveError(f"{path} could not be written ({describe_failure(error)})") from None


def load_checkpoint(path: Path, state: TrainState) -> Progress:
    """Restore `state` from one checkpoint, whose files have been checked. A collective.

    Raises:
        ValueError: it does not hold what the configuration asks for.
    """
    manifest = files.read_manifest(path)
    load_tensors(path, state.tensors())
    progress = Progress(manifest["images_seen"], manifest["steps"], manifest["skipped_steps"])
    state.set_steps(progress.steps - progress.skipped_steps)
    return progress
