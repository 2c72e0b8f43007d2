"""The loader at work: ahead of its consumer, in bounded memory, and gone when the process is."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soda_fast.config.schema import DataConfig
from soda_fast.data import TrainLoader
from soda_fast.data.executor import dali_is_installed
from soda_fast.data.image_set import ArrayImages
from tests.data.pictures import pixels

CPU = torch.device("cpu")
BACKENDS = ["batched"] + ["dali"] * (dali_is_installed())


class Counted(ArrayImages):
    """Counts the batches whose pixels were asked for."""

    batches = 0

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.batches += 1
        return super().take(indices)


def open_loader(images: ArrayImages, data: DataConfig, batch: int) -> TrainLoader:
    return TrainLoader(
        images, data, (0.5,) * 3, (0.25,) * 3,
        seed=0, global_batch=batch, rank=0, world=1, parts=1, start_position=0, device=CPU,
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_batches_are_made_while_the_consumer_computes(backend: str) -> None:
    """The consumer never asks for the second batch; by itself the loader makes the two that follow."""
    images = Counted(pixels("digits"), np.zeros(64, np.int64), "digit")
    data = DataConfig(source_size=8, target_size=8, backend=backend)
    assert data.prefetch_batches >= 2
    loader = open_loader(images, data, 16)
    try:
        next(loader)
        weight, deadline = torch.randn(64, 64), time.monotonic() + 120
        while images.batches < 3 and time.monotonic() < deadline:
            weight = weight @ weight / weight.norm()
        assert images.batches >= 3
    finally:
        loader.close()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_flat(backend: str) -> None:
    """500 batches of 98 KiB: what holds on to them all grows by 48 MiB."""
    loader = open_loader(
        ArrayImages(pixels("digits"), np.zeros(64, np.int64), "digit"),
        DataConfig(source_size=8, target_size=8, backend=backend, threads=2),
        64,
    )
    try:
        for _ in range(100):
            next(loader)
        before = resident_bytes()
        for _ in range(500):
            next(loader)
        assert resident_bytes() - before < 12 << 20
    finally:
        loader.close()


CHILD = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs beside them without it
import numpy as np, torch
from soda_fast.config.schema import DataConfig
from soda_fast.data import TrainLoader
from soda_fast.data.digits import load_digits

images = load_digits()[0]
data = DataConfig(source_size=8, target_size=8, backend={backend!r}, threads=2)
loader = TrainLoader(images, data, (0.5,) * 3, (0.25,) * 3, seed=0, global_batch=16, rank=0, world=1, parts=1,
                     start_position=0, device=torch.device("cpu"))
try:
    for number, batch in enumerate(loader):
        if number == 3:
            print("running", flush=True)
            {then}
finally:
    if {close}:
        loader.close()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("soda-fast")]
        print("left", left, flush=True)
"""


@pytest.mark.parametrize(("end", "close"), [("exception", False), ("interrupt", False), ("interrupt", True)])
@pytest.mark.parametrize("backend", BACKENDS[-1:])
def test_a_process_that_ends_in_the_middle_ends_at_once_and_cleanly(backend: str, end: str, close: bool) -> None:
    """An exception or Ctrl-C in the consumer, closing the loader or not: no hang, no crash, no thread left."""
    then = 'raise RuntimeError("the model broke")' if end == "exception" else "pass"
    code = CHILD.format(backend=backend, then=then, close=close)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    if end == "interrupt":
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=300)
    assert child.returncode in ((1,) if end == "exception" else (1, 130, -signal.SIGINT)), err
    assert err.rstrip().endswith("RuntimeError: the model broke" if end == "exception" else "KeyboardInterrupt")
    assert out == ("left []\n" if close else "")
