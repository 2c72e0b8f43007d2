"""One training on a CPU and on a GPU: the same draws, and so nearly the same losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from training.tiny import run_tiny, tiny_tree, trainer_of, weights_hash, with_two_resolutions

from soda_fast.parallel import start_processes

STEPS = 5
ROUNDING = 1e-3
"""Between two devices in fp32. Draws are equal: order, views, timesteps, noise and dropout are counted, not generated
by the device. Sums over a convolution's inputs and a BatchNorm's batch come in another order, which is 1e-7 of a loss
between two layouts on one CPU; but Adam divides a gradient by its own size, so that where that is hardly more than its
rounding error the weights of two devices part by up to a step of the learning rate."""
BF16 = 2e-2
"""Between bf16 and fp32: bf16 rounds by up to 2 ** -9 = 2e-3, layer upon layer. 4e-4 of a loss on a CPU."""
PLAIN = {"precision": "fp32", "compile": False, "kernels": "pytorch", "channels_last": False}


def losses_on(device: str, folder: Path, perf: dict[str, Any], seed: int = 3) -> list[float]:
    """Of the first steps, with dropout, RandAugment and two resolutions. Views are torchvision's, made on the CPU: the
    GPU's own may differ by a grey level."""
    tree = with_two_resolutions(tiny_tree(folder, STEPS))
    tree["data"]["backend"] = "torchvision"
    tree["run"]["seed"] = seed
    found: list[float] = []
    with start_processes(device) as processes:
        trainer = trainer_of({**tree, "perf": perf}, processes)
        for parts in trainer._global_batches():
            trainer.step.loss_sum.zero_()
            trainer.step(parts)
            found.append(trainer.step.loss_sum.item())
    return found


def assert_close(found: Sequence[float], expected: Sequence[float], tolerance: float) -> None:
    assert len(found) == len(expected) == STEPS
    assert list(found) == [pytest.approx(loss, rel=tolerance) for loss in expected]


def compare_in_fp32(folder: Path, device: str, expected: Sequence[float]) -> None:
    """In channels_last, so that it is another computation wherever it is."""
    assert_close(losses_on(device, folder / "fp32", {**PLAIN, "channels_last": True}), expected, ROUNDING)


def compare_in_bf16(folder: Path, device: str, expected: Sequence[float], compiled: bool) -> None:
    """With everything that makes a step fast."""
    fast = {"precision": "bf16", "compile": compiled, "kernels": "auto", "channels_last": True}
    assert_close(losses_on(device, folder / "bf16", fast), expected, BF16)


def test_layouts_and_precisions_of_a_cpu_have_the_same_losses_and_other_seeds_others(tmp_path: Path) -> None:
    expected = losses_on("cpu", tmp_path / "cpu", PLAIN)
    compare_in_fp32(tmp_path, "cpu", expected)
    compare_in_bf16(tmp_path, "cpu", expected, compiled=False)
    with pytest.raises(AssertionError):
        assert_close(losses_on("cpu", tmp_path / "other", PLAIN, seed=4), expected, BF16)


@pytest.mark.gpu
def test_a_gpu_has_a_cpus_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN multiplies fp32 in TF32 otherwise, whose mantissa is bf16's and three bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    compare_in_fp32(tmp_path, "cuda", losses_on("cpu", tmp_path / "cpu", PLAIN))


@pytest.mark.gpu
def test_all_that_is_fast_on_a_gpu_has_nearly_a_cpus_losses(tmp_path: Path) -> None:
    compare_in_bf16(tmp_path, "cuda", losses_on("cpu", tmp_path / "cpu", PLAIN), compiled=True)


def train_deterministically(path: Path, steps: int, compiled: bool) -> None:
    """On a GPU if there is one. In a process of its own: cuBLAS asks once how large its workspace is."""
    run_tiny({**tiny_tree(path, steps, deterministic=True), "perf": {"compile": compiled}})


def resume_deterministically(folder: Path, compiled: bool) -> None:
    """Six steps in one go, and three, and then the rest: the same checkpoint, bit for bit."""
    for run, stops in (("whole", (6,)), ("parts", (3, 6))):
        for steps in stops:
            run_in_processes(train_deterministically, 1, folder / run, steps, compiled)
    assert weights_hash(folder / "whole") == weights_hash(folder / "parts")


@pytest.mark.gpu
def test_deterministic_training_resumes_bit_for_bit_on_a_gpu(tmp_path: Path) -> None:
    resume_deterministically(tmp_path, compiled=True)
