"""A training step on tensors without memory, as one process of many: the trainer's own, from the noise to the EMA."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from soda_fast.config import Config
from soda_fast.data import Batch
from soda_fast.memory.ledger import MemoryLedger, Usage
from soda_fast.parallel import Processes
from soda_fast.training.step import TrainStep

# torch.compile up to the code: what is saved for the backward pass is decided, the operations run one by one.
_PARTITIONED = "aot_eager_decomp_partition"


class _SimulatedProcesses(Processes):
    """Process 0 of a group that no one else is in."""

    def mesh(self, strategy: str, shard_processes: int | None = None) -> DeviceMesh:
        """As `Processes.mesh`; a mesh is made of real numbers."""
        with unset_fake_temporarily():
            return super().mesh(strategy, shard_processes)


def simulate(config: Config, processes: int, machine_processes: int) -> Usage:
    """Memory of the first process, whose shards are the largest, in its second step.

    Raises:
        ConfigError: `processes` do not fit the configuration.
    """
    with simulated_step(config, processes, machine_processes) as (step, parts):
        return measure_memory(step, parts)


@contextmanager
def simulated_step(config: Config, processes: int, machine_processes: int) -> Iterator[tuple[TrainStep, list[Batch]]]:
    """A step that has been made once, as the first of `processes`, and the batch of its next time.

    It works on fake CPU tensors, with the precision, layout and compilation that `config.perf` names ("auto" is a CPU's
    choice), and its collectives do nothing. The fused normalisation is there as on a GPU, through its shapes.

    Raises:
        ConfigError: `processes` do not fit the configuration.
    """
    with (
        _fake_processes(processes, machine_processes) as simulated,
        _code_left_out(),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        step = TrainStep(config, simulated, warmup_images=0)
        parts = _batches(config, processes)
        # The first time makes the optimizer's state, and compiles.
        step(parts)
        yield step, parts


def measure_memory(step: TrainStep, parts: list[Batch]) -> Usage:
    """Memory of one more step, on real tensors or fake ones; there has been one, which made the optimizer's state."""
    ledger = MemoryLedger()
    model, average, optimizer = step.model, step.ema.model, step.optimizer
    ledger.name("weights", [*model.parameters(), *model.buffers()])
    ledger.name("average", [*average.parameters(), *average.buffers(), *step.power_averages.tensors().values()])
    ledger.name("optimizer", [tensor for state in optimizer.state.values() for tensor in state.values()])
    ledger.name("images", [tensor for part in parts for tensor in (part.source, part.target)])

    def name_gradients(*_: Any) -> None:
        ledger.name("gradients", [parameter.grad for parameter in model.parameters()])

    hook = optimizer.register_step_pre_hook(name_gradients)
    try:
        with ledger:
            step(parts)
    finally:
        hook.remove()
    return ledger.usage()


@contextmanager
def _fake_processes(processes: int, machine_processes: int) -> Iterator[Processes]:
    """A process group whose collectives do nothing."""
    assert not dist.is_initialized(), "a simulation has a process group of its own"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        yield _SimulatedProcesses(0, processes, 0, machine_processes, torch.device("cpu"), dist.HashStore())
    finally:
        dist.destroy_process_group()


@contextmanager
def _code_left_out() -> Iterator[None]:
    """Let torch.compile plan and not generate code: nothing here is computed."""
    compile_function = torch.compile

    def plan(function: Any, **_: Any) -> Any:
        return compile_function(function, fullgraph=True, dynamic=False, backend=_PARTITIONED)

    torch.compile = plan  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_function
        torch._dynamo.reset()


def _batches(config: Config, processes: int) -> list[Batch]:
    parts = config.train.accumulate
    n, data = config.train.global_batch_images // processes // parts, config.data
    targets = n * data.targets_per_source

    def images(count: int, size: int) -> torch.Tensor:
        return torch.empty(count, 3, size, size)

    positions = torch.zeros(n, dtype=torch.int64)
    cameras = (torch.empty(n, 3, 4), torch.empty(targets, 3, 4))
    return [
        Batch(images(n, data.source_size), images(targets, data.target_size), positions, positions, positions, *cameras)
        for _ in range(parts)
    ]
