"""Memory that does not suffice: what to lower is said, and what filled it is kept."""

import json
import resource
from pathlib import Path

import forked
import pytest
import torch
from training.tiny import tiny_tree

from soda_fast.config import config_from_tree
from soda_fast.errors import TrainingError
from soda_fast.parallel import start_processes
from soda_fast.training.faults import is_out_of_memory, out_of_memory_explained


def test_a_step_that_does_not_fit(tmp_path: Path) -> None:
    """The address space is limited; activations of a wide decoder ask for more."""
    tree = tiny_tree(tmp_path / "run", 2, global_batch_images=1500)
    tree["train"]["images"] = 3000
    tree["model"]["decoder"]["channels"] = 512
    tree["data"]["backend"] = "torchvision"
    assert forked.ends_with(forked.train(tree, limits={resource.RLIMIT_AS: 2 * 1024**3})) == 1
    told = forked.log(tree)
    assert "out of memory on process 0 of 1: " in told
    assert "perf.activation_checkpointing=true" in told
    assert "train.accumulate above 1: fewer than 1500 images at once" in told
    assert "train.global_batch_images below 1500" in told
    assert "Traceback" not in told
    kept = json.loads((tmp_path / "run" / "memory" / "process-0.json").read_text())
    assert kept["peak_resident_kib"] > 100_000


def test_only_ways_that_are_left_are_named(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 1)
    tree["perf"] = {"activation_checkpointing": True}
    with (
        start_processes("cpu") as processes,
        pytest.raises(TrainingError) as raised,
        out_of_memory_explained(config_from_tree(tree), processes, tmp_path / "memory"),
    ):
        torch.empty(2**55, dtype=torch.uint8)
    assert "activation_checkpointing" not in str(raised.value)
    assert "data.targets_per_source" not in str(raised.value)
    assert str(tmp_path / "memory") in str(raised.value)


def test_fewer_targets_are_a_way_where_there_are_several(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 1)
    tree["data"]["targets_per_source"] = 4
    with (
        start_processes("cpu") as processes,
        pytest.raises(TrainingError, match=r"data\.targets_per_source below 4 \(another training"),
        out_of_memory_explained(config_from_tree(tree), processes, tmp_path / "memory"),
    ):
        torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "Critical error in pipeline:\nError in GPU operator `nvidia.dali.fn.resize`\nCUDA allocation failed",
        "Critical error in pipeline:\nError in CPU operator `nvidia.dali.fn.slice`\nstd::bad_alloc",
        "Critical error in pipeline:\nCan't allocate 1048576 bytes on device 0.",
    ],
)
def test_libraries_without_memory(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


def test_other_errors_pass(tmp_path: Path) -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    with (
        start_processes("cpu") as processes,
        pytest.raises(RuntimeError, match="shape mismatch"),
        out_of_memory_explained(config_from_tree(tiny_tree(tmp_path, 1)), processes, tmp_path / "memory"),
    ):
        raise RuntimeError("shape mismatch")
    assert not (tmp_path / "memory").exists()


@pytest.mark.gpu
def test_a_gpu_leaves_a_snapshot(tmp_path: Path) -> None:
    with (
        start_processes("cuda") as processes,
        pytest.raises(TrainingError, match="out of memory on process 0"),
        out_of_memory_explained(config_from_tree(tiny_tree(tmp_path, 1)), processes, tmp_path),
    ):
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert (tmp_path / "process-0.pickle").stat().st_size > 0
