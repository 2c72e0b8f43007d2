"""A step that does not log reads nothing from the device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training.tiny import make_trainer

from soda_fast.parallel import start_processes

READS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique")


class Reads(TorchDispatchMode):
    """Notes the operations whose result the host, or a shape, depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.startswith(READS):
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def trainer_and_batches(path: Path, device: str) -> Any:
    """A trainer, and its share of the global batches."""
    with start_processes(device) as processes:
        trainer = make_trainer(path / "run", processes, ema_lengths=[0.05, 0.1])
        batches = trainer._global_batches()
        yield trainer, batches
        batches.close()


@pytest.fixture
def on_cpu(tmp_path: Path) -> Any:
    yield from trainer_and_batches(tmp_path, "cpu")


@pytest.fixture
def on_gpu(tmp_path: Path) -> Any:
    yield from trainer_and_batches(tmp_path, "cuda")


def test_no_tensor_is_read(on_cpu: Any) -> None:
    trainer, batches = on_cpu
    for _ in range(3):
        parts = next(batches)
        with Reads() as reads:
            trainer.step(parts)
        assert reads.found == []
    with Reads() as reads:
        trainer.step.guard.check()
    assert reads.found, "the test would not see a read"


@pytest.mark.gpu
def test_the_host_never_waits(on_gpu: Any) -> None:
    trainer, batches = on_gpu
    for _ in range(2):  # compilation and libraries' choices may wait
        trainer.step(next(batches))
    parts = next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
