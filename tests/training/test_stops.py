"""Trainings that are told to stop, meet another at work, or lose or wait for a process."""

import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from PIL import Image
from training.tiny import BATCH, losses, read_metrics, tiny_tree, weights_hash

from soda_fast.training.checkpoint_files import checkpoints
from soda_fast.training.step import TrainStep
from tests.data.pictures import CIFAR_LABELS, CIFAR_LOSSLESS, REAL, real_files

ROOT = Path(__file__).parents[2]
LONG = 20_000
"""Steps: more than a training takes before the signal that ends it, however late that comes."""
LIMIT_S = 9.0
"""Of a training whose process is about to hang: no step before that takes as long, even on a busy machine."""


def assert_continues(stopped: dict[str, Any], tmp_path: Path) -> None:
    """Two more steps, and the same from the beginning, end in the same bits."""
    run = Path(stopped["run"]["dir"])
    images = int(checkpoints(run / "checkpoints")[-1].name.removeprefix("images-"))
    assert images == read_metrics(run)[-1]["images_seen"], "the checkpoint is of the last step"
    stopped["train"]["images"] = images + 2 * BATCH
    whole = tiny_tree(tmp_path / "whole", images // BATCH + 2)
    for tree in (stopped, whole):
        assert forked.ends_with(forked.train(tree)) == 0, forked.log(tree)
    assert weights_hash(run) == weights_hash(tmp_path / "whole")
    assert losses(run) == losses(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_in_a_checkpoint(tmp_path: Path, number: int, code: int) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    process = forked.train(tree)
    forked.wait_for_steps(tree, 3, process)
    os.kill(process.pid, number)  # type: ignore[arg-type]
    assert forked.ends_with(process) == code
    told = forked.log(tree)
    assert f"stopped by {signal.Signals(number).name}" in told
    assert "Traceback" not in told
    assert_continues(tree, tmp_path)


SLOW_DISK = """
import sys, time
from pathlib import Path
from soda_fast.__main__ import run
from soda_fast.training import checkpoint_files

def fingerprint(path):
    Path(sys.argv[2] + ".writing").touch()
    time.sleep(100)

checkpoint_files.fingerprint = fingerprint
run()
"""


def test_a_second_interrupt_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    config, said = tmp_path / "run.yaml", tmp_path / "said"
    config.write_text(str(tiny_tree(tmp_path / "run", LONG)))
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_DISK, "train", str(config)], cwd=ROOT, stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + forked.PATIENCE_S
        while not ((tmp_path / "run" / "metrics.jsonl").exists() and read_metrics(tmp_path / "run")):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        while not (tmp_path / "run.yaml.writing").exists():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(2.1)  # a first and a second one, not one that comes twice
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, said.read_text()
    finally:
        process.kill()
    assert "soda-fast: interrupted" in said.read_text()
    assert "Traceback" not in said.read_text()


def wait_until(condition: Callable[[], bool], process: Any) -> None:
    until = time.monotonic() + forked.PATIENCE_S
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < until
        time.sleep(0.001)


def never_end_the_first_step() -> None:
    """A signal may come as late as it will. All processes notice when one leaves."""
    real = TrainStep.__call__

    def step(self: TrainStep, parts: list[Any]) -> None:
        real(self, parts)
        while True:
            self.processes.barrier()
            time.sleep(0.01)

    TrainStep.__call__ = step  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step(tmp_path: Path, number: int) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    process = forked.train(tree, prepare=never_end_the_first_step)
    wait_until((tmp_path / "run" / ".lock").exists, process)
    os.kill(process.pid, number)  # type: ignore[arg-type]
    assert_stopped_before_the_first_step(tree, [process], number)
    tree["train"]["images"] = 2 * BATCH
    assert forked.ends_with(forked.train(tree)) == 0


def assert_stopped_before_the_first_step(tree: dict[str, Any], processes: list[Any], number: int) -> None:
    code = 130 if number == signal.SIGINT else 75
    assert [forked.ends_with(process) for process in processes] == [code] * len(processes), forked.log(tree)
    told = forked.log(tree)
    assert told.count("soda-fast:") == 1
    assert f"stopped by {signal.Signals(number).name} before the first step" in told
    # PyTorch may warn with the "Traceback of forward call" where the compiler's backward pass was interrupted.
    assert "Traceback (most recent call last)" not in told
    run = Path(tree["run"]["dir"])
    assert not (run / "metrics.jsonl").exists() or read_metrics(run) == []
    assert checkpoints(run / "checkpoints") == []


def waits_for_a_lock(process: int | None) -> bool:
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any("->" in words and str(process) in words for words in lines)


def test_a_signal_while_the_data_opens(tmp_path: Path) -> None:
    """Another process is decoding them, and this one waits for it."""
    images = tmp_path / "images" / "train" / "a"
    images.mkdir(parents=True)
    for grey in range(3):
        Image.new("RGB", (8, 8), (grey, 2 * grey, 9 * grey)).save(images / f"{grey}.png")
    tree = tiny_tree(tmp_path / "run", LONG)
    tree["data"] |= {"dataset": "folder", "root": str(tmp_path / "images")}
    lock = (tmp_path / "images" / ".soda-fast-folder-train-pixels.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = forked.train(tree)
    wait_until(lambda: waits_for_a_lock(process.pid), process)
    os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]
    assert_stopped_before_the_first_step(tree, [process], signal.SIGTERM)


def test_a_signal_while_torch_is_imported(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    (tmp_path / "run.yaml").write_text(str(tree))
    # Python says on stderr what it imports.
    command = [sys.executable, "-v", "-m", "soda_fast", "train", str(tmp_path / "run.yaml")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("import 'torch.") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
    assert process.returncode == 75, told[-2000:]
    assert "soda-fast: stopped by SIGTERM before the first step" in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_while_the_model_compiles(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG) | {"perf": {"compile": True}}
    process = forked.train(tree, prepare=never_end_the_first_step)
    wait_until(lambda: f"training {tmp_path / 'run'}" in forked.log(tree), process)
    time.sleep(2)
    os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]
    assert_stopped_before_the_first_step(tree, [process], signal.SIGTERM)


@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_at_one_process_before_the_first_step_stops_all(tmp_path: Path, who: int) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    processes = forked.train_together(tree, 2, prepare=never_end_the_first_step)
    wait_until((tmp_path / "run" / ".lock").exists, processes[1 - who])
    os.kill(processes[who].pid, signal.SIGTERM)  # type: ignore[arg-type]
    assert_stopped_before_the_first_step(tree, processes, signal.SIGTERM)


def test_a_signal_at_one_of_several_processes_stops_all(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    processes = forked.train_together(tree, 2)
    forked.wait_for_steps(tree, 3, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)  # type: ignore[arg-type]
    assert [forked.ends_with(process) for process in processes] == [75, 75], forked.log(tree)
    assert forked.log(tree).count("stopped by SIGTERM") == 1
    images = int(checkpoints(tmp_path / "run" / "checkpoints")[-1].name.removeprefix("images-"))
    assert images == read_metrics(tmp_path / "run")[-1]["images_seen"]


def test_a_second_training_in_one_directory_is_refused(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    first = forked.train(tree)
    forked.wait_for_steps(tree, 1, first)
    second = forked.train(tree)
    assert forked.ends_with(second) == 2
    assert f"another training is at work there (process {first.pid} on " in forked.log(tree)
    assert first.is_alive()
    # A lock does not outlive its holder, however it ends.
    first.kill()
    first.join()
    tree["train"]["images"] = 2 * BATCH
    assert forked.ends_with(forked.train(tree)) == 0


def test_a_process_that_hangs_is_named(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG, save_every_images=2 * BATCH)
    tree["parallel"] = {"timeout_minutes": LIMIT_S / 60}
    processes = forked.train_together(tree, 2)
    forked.wait_for_steps(tree, 3, processes[0])
    os.kill(processes[1].pid, signal.SIGSTOP)  # type: ignore[arg-type]
    try:
        assert forked.ends_with(processes[0]) == 1, forked.log(tree)
    finally:
        processes[1].kill()
    told = forked.log(tree)
    assert "no progress for 0.15 min (parallel.timeout_minutes); these processes are behind: process 1 on " in told
    assert told.count("soda-fast:") == 1


def test_a_frozen_process_that_keeps_the_store_is_noticed(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG, save_every_images=2 * BATCH)
    tree["parallel"] = {"timeout_minutes": LIMIT_S / 60}
    processes = forked.train_together(tree, 2)
    forked.wait_for_steps(tree, 3, processes[0])
    os.kill(processes[0].pid, signal.SIGSTOP)  # type: ignore[arg-type]
    try:
        assert forked.ends_with(processes[1]) == 1
    finally:
        processes[0].kill()
    assert "process 1 is on " in forked.log(tree)


def test_a_process_that_dies_is_told_once(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    processes = forked.train_together(tree, 3)
    forked.wait_for_steps(tree, 3, processes[0])
    processes[2].kill()
    assert [forked.ends_with(process) for process in processes[:2]] == [1, 1]
    told = forked.log(tree)
    assert told.count("another process of this run was lost") == 1
    assert "Traceback" not in told


def test_what_the_main_process_cannot_open_ends_all(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", LONG)
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    processes = forked.train_together(tree, 2)
    assert [forked.ends_with(process) for process in processes] == [2, 2], forked.log(tree)
    assert forked.log(tree) == f"soda-fast: {tmp_path / 'run' / 'metrics.jsonl'}: Is a directory\n"


def real_images(root: Path, count: int) -> dict[str, Any]:
    """The first of CIFAR-10's training images, lossless, as a folder. Skips where there are none."""
    rows = Image.open(io.BytesIO(real_files(CIFAR_LOSSLESS, 1)[0])).convert("RGB")
    labels = [line.split()[2] for line in (REAL / CIFAR_LABELS).read_text().splitlines()[:count]]
    pixels = np.asarray(rows).reshape(-1, 32, 32, 3)
    for number, label in enumerate(labels):
        path = root / "train" / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    return {"dataset": "folder", "root": str(root)}


STEPS = 24


@pytest.mark.slow
def test_torchrun_starts_again_when_a_process_dies(tmp_path: Path) -> None:
    """On real images; the weights are those of a training in which nobody died."""
    tree = tiny_tree(tmp_path / "run", STEPS, save_every_images=4 * BATCH)
    tree["data"] |= real_images(tmp_path / "images", 240)
    (tmp_path / "run.yaml").write_text(str(tree))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", "soda_fast", "train", str(tmp_path / "run.yaml")]
    with (tmp_path / "log").open("w") as log:
        torchrun = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            until = time.monotonic() + forked.PATIENCE_S
            while len(checkpoints(tmp_path / "run" / "checkpoints")) < 2:
                assert torchrun.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.005)
            os.kill(_child_of_rank(torchrun.pid, 1), signal.SIGKILL)
            assert torchrun.wait(forked.PATIENCE_S) == 0, (tmp_path / "log").read_text()
        finally:
            torchrun.kill()
    told = (tmp_path / "log").read_text()
    assert f"training {tmp_path / 'run'}" in told
    assert f"resuming {tmp_path / 'run'}" in told
    assert sorted(losses(tmp_path / "run")) == [BATCH * step for step in range(1, STEPS + 1)]
    whole = tree | {"run": {"dir": str(tmp_path / "whole"), "seed": 3}}
    assert [forked.ends_with(process) for process in forked.train_together(whole, 2)] == [0, 0], forked.log(whole)
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def _child_of_rank(parent: int, rank: int) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"torchrun has no process of rank {rank}")
