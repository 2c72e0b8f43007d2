"""The processes of a run: started by torchrun, or just this one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from soda_fast.errors import Stopped, TrainingError
from soda_fast.lone_threads import others_compute_alone
from soda_fast.parallel.meeting import Meeting
from soda_fast.parallel.parting import part, part_well, portable
from soda_fast.parallel.uninterrupted import uninterrupted
from soda_fast.parallel.word import Listener

T = TypeVar("T")
_LAST_MEETING = timedelta(seconds=10)
"""How long a process that was told to stop waits for the others, to say so."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    store: dist.Store
    timeout: timedelta = timedelta(minutes=60)
    """The longest that a collective waits."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def mesh(self, strategy: str, shard_processes: int | None = None) -> DeviceMesh:
        """How parameters are laid over the processes.

        Args:
            strategy: "fsdp": sharded over all; "ddp": a copy each; "hsdp": sharded over each `shard_processes`
                neighbours, a copy for each such group.
            shard_processes: None: the processes of one machine.
        """
        if strategy == "fsdp":
            return self._mesh((self.world_size,), ("shard",))
        shard = 1 if strategy == "ddp" else shard_processes or self.local_world_size
        return self._mesh((self.world_size // shard, shard), ("replicate", "shard"))

    def host_group(self) -> dist.ProcessGroup:
        """A new group of all processes, for the host's collectives beside the training's. A collective."""
        with uninterrupted():
            return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=self.timeout))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes. A collective."""
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world_size

    def on_main(self, action: Callable[[], T]) -> T:
        """What the main process's action returns, while the others wait; its error is raised on all. A collective."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome = [action(), None]
            except BaseException as error:
                dist.broadcast_object_list([None, portable(error)])
                raise
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return cast(T, outcome[0])

    def gather(self, value: T) -> list[T]:
        """What each process gives, by rank. A collective."""
        values: list[T] = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def require_equal(self, value: object, name: str, remedy: str) -> None:
        """Refuse to go on if `value` is not the same on all processes. A collective.

        Raises:
            ValueError: it differs; names the processes that differ from the first.
        """
        everyone = self.gather(value)
        others = [str(rank) for rank, other in enumerate(everyone) if other != everyone[0]]
        if others:
            raise ValueError(f"{name} of processes {', '.join(others)} differ from those of process 0; {remedy}")

    def barrier(self) -> None:
        """Wait for all processes."""
        # On a GPU the barrier's own collective must know its device.
        dist.barrier(device_ids=[self.local_rank] if self.device.type == "cuda" else None)

    def _mesh(self, shape: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
        with uninterrupted():
            return init_device_mesh(self.device.type, shape, mesh_dim_names=names)


@contextmanager
def start_processes(device_type: str | None = None, timeout_minutes: float = 30.0) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one; leave the process group at the end.

    Meanwhile other threads, of loaders, checkpoints and gloo, compute alone (`others_compute_alone`).

    Args:
        device_type: "cuda" or "cpu"; None: CUDA if there is a GPU.
        timeout_minutes: the longest that a process waits for the others.

    Raises:
        ValueError: more processes on this machine than GPUs.
        TrainingError: another process was lost.
        Stopped: this process or another one was, by a signal.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    # Twice the limit: `Watchdog`, which knows who is missing, should speak first.
    timeout = timedelta(minutes=2 * timeout_minutes)
    meeting = Meeting(rank, world_size, timeout)
    store: dist.Store | None = None
    listener: Listener | None = None
    # One block: of a signal between two, the others would never hear.
    try:
        device = _device(device_type, local_rank, local_world_size)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = meeting.store() if "RANK" in os.environ else dist.HashStore()
        listener = Listener(store if world_size > 1 else None)
        listener.start()
        with others_compute_alone():
            with uninterrupted():
                dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
            yield Processes(rank, world_size, local_rank, local_world_size, device, store, timeout)
    except BaseException as error:
        if store is not None:
            part(store, rank, world_size, error, None if listener is None else listener.close())
        elif world_size > 1 and isinstance(error, Stopped):
            _part_before_all_met(meeting, rank, world_size, error)
        raise
    listener.close()
    part_well(store, rank, world_size)
    dist.destroy_process_group()


def excuse(error: Stopped) -> None:
    """Tell the others, who wait to meet this process, that it was told to stop and does not come; nothing to do if it
    has parted from them by this error.

    It waits ten seconds for them. Those that come later are not told, and wait for this process until torchrun ends
    them or, without torchrun, their patience does.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1 and not error.excused:
        _part_before_all_met(Meeting(rank, world_size, _LAST_MEETING), rank, world_size, error)


def _part_before_all_met(meeting: Meeting, rank: int, world_size: int, error: Stopped) -> None:
    """Told to stop, this process still meets the others who come in time."""
    error.excused = True
    with suppress(TrainingError, TimeoutError):
        part(meeting.store(_LAST_MEETING.total_seconds()), rank, world_size, error)


def _device(device_type: str | None, local_rank: int, local_world_size: int) -> torch.device:
    device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
    if device_type != "cuda":
        return torch.device("cpu")
    if local_world_size > torch.cuda.device_count():
        raise ValueError(
            f"{local_world_size} processes on this machine but {torch.cuda.device_count()} GPUs: "
            f"start torchrun with --nproc-per-node={torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
