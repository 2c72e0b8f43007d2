"""What one training step sends between processes: every collective, seen as it is called."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from soda_fast.config import Config
from soda_fast.memory.simulation import simulated_step

Kind = Literal["all_gather", "reduce_scatter", "all_reduce"]
Group = Literal["one", "machine", "across", "all"]

MACHINE_PROCESSES = 8
_SIMULATED = 2 * MACHINE_PROCESSES  # two machines: every kind of group can be told from the others
_C10D: dict[str, Kind] = {
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "allreduce_": "all_reduce",
}
_FUNCTIONAL: dict[str, Kind] = {
    "all_gather_into_tensor": "all_gather",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_reduce": "all_reduce",
}


@dataclass(frozen=True)
class Collective:
    """One collective of a step.

    bytes: of the whole tensor: what everybody has after a gather or a reduction, or before a scatter. group: "one"
    process alone, those of a "machine", one of each machine ("across"), or "all". blocks: the step cannot go on without
    its result; FSDP's own run beside the computation.
    """

    kind: Kind
    bytes: int
    group: Group
    blocks: bool


class TrafficCounter(TorchDispatchMode):
    """Notes the collectives that eager code calls while it is entered, on real tensors or on fake ones.

    Attributes:
        collectives: in the order of their calls.
    """

    def __init__(self, machine_processes: int) -> None:
        super().__init__()
        self.collectives: list[Collective] = []
        self._machine_processes = machine_processes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its local operations come here one by one
        result = func(*args, **(kwargs or {}))
        name = func.name().partition("::")[2].partition(".")[0]
        if func.namespace == "c10d" and name in _C10D:
            self._note(_C10D[name], (args[0], args[1]), dist.ProcessGroup.unbox(_group_of(args)), blocks=False)
        if func.namespace == "_c10d_functional" and name.rstrip("_") in _FUNCTIONAL:
            self._note(_FUNCTIONAL[name.rstrip("_")], (args[0], result), _resolve_process_group(args[-1]), blocks=True)
        return result

    def _note(self, kind: Kind, tensors: tuple[Any, ...], group: dist.ProcessGroup, blocks: bool) -> None:
        whole = max(_bytes(tensor) for tensor in tensors)
        self.collectives.append(Collective(kind, whole, self._extent(group), blocks))

    def _extent(self, group: dist.ProcessGroup) -> Group:
        ranks = dist.get_process_group_ranks(group)
        machines = {rank // self._machine_processes for rank in ranks}
        if len(ranks) == 1:
            return "one"
        if len(machines) == 1:
            return "machine"
        return "across" if len(machines) == len(ranks) else "all"


def step_traffic(config: Config) -> list[Collective]:
    """The collectives of one training step on two machines of eight GPUs, one image each.

    How many bytes a collective has does not depend on the number of processes (but for shards being rounded up to equal
    length) nor on the batch, so this stands for any number of machines of eight.

    Raises:
        ConfigError: the strategy does not fit the processes.
    """
    train = replace(config.train, global_batch_images=_SIMULATED * config.train.accumulate)
    perf = replace(config.perf, compile=False)  # compiled blocks send the same
    with simulated_step(replace(config, train=train, perf=perf), _SIMULATED, MACHINE_PROCESSES) as (step, parts):
        with TrafficCounter(MACHINE_PROCESSES) as counter:
            step(parts)
        return counter.collectives


def _group_of(args: tuple[Any, ...]) -> torch.ScriptObject:
    return next(argument for argument in args if isinstance(argument, torch.ScriptObject))


def _bytes(value: Any) -> int:
    """Of a tensor, or of all in a list."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(one) for one in value) if isinstance(value, list | tuple) else 0
