"""Which paths are announced for machines of many kinds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from soda_fast.config import Config, load_config
from soda_fast.doctor.findings import Finding
from soda_fast.doctor.fits import memory_finding
from soda_fast.doctor.hardware import Hardware, this_hardware
from soda_fast.doctor.machine import available_memory_bytes
from soda_fast.doctor.paths import head_widths, path_findings
from soda_fast.doctor.processes import fitting_processes

CONFIGS = Path(__file__).parents[2] / "configs"
H100 = Hardware("cuda", 1, "NVIDIA H100 80GB HBM3", (9, 0), 16, 80 << 30, True, True, True, None)
T4 = replace(H100, gpu="Tesla T4", capability=(7, 5), obstacle="it needs compute capability 8.0, and Tesla T4 has 7.5")
LAPTOP = Hardware(
    "cpu", 0, "", (0, 0), 8, 16 << 30, True, True, True, "it runs on GPUs, and these tensors are on a CPU"
)


def cifar(*overrides: str) -> Config:
    return load_config(CONFIGS / "cifar10.yaml", list(overrides))


def found(config: Config, hardware: Hardware, longest: int | None = None) -> dict[str, Finding]:
    return {finding.subject: finding for finding in path_findings(config, hardware, 50_000, longest)}


def test_all_is_well_on_an_h100() -> None:
    findings = found(cifar("data.backend=torchvision"), H100)
    assert {subject for subject, finding in findings.items() if finding.mark != "ok"} == {"images"}
    assert findings["precision"].text.startswith("bf16 (auto on a GPU)")
    assert "fused Triton kernel" in findings["normalisation"].text
    assert findings["attention"].text == "flash attention, heads of 256 channels"
    assert findings["memory layout"].text.startswith("channels_last")


def test_a_node_of_eight() -> None:
    node = replace(H100, gpus=8, cores=128)
    assert "torchrun --nproc-per-node=8" in found(cifar(), node)["processes"].text
    refused = found(cifar("train.global_batch_images=500"), node)["processes"]
    assert refused.mark == "slow"
    assert refused.text.startswith("5 of 8 GPUs at most: ")
    assert "do not divide" in refused.text
    assert found(cifar(), replace(node, cores=16))["images"].mark == "slow"
    # Of 24 cores each of five processes has four, enough.
    few = replace(node, cores=24)
    assert found(cifar(), few)["images"].mark == "slow"
    assert "4 threads a process" in found(cifar("train.global_batch_images=500"), few)["images"].text


@pytest.mark.parametrize(("gpus", "most"), [(0, 0), (1, 0), (3, 0), (4, 4), (6, 4), (8, 8)])
def test_groups_of_four_processes(gpus: int, most: int) -> None:
    config = cifar("parallel.strategy=hsdp", "parallel.shard_processes=4")
    hardware = replace(H100, gpus=gpus) if gpus else LAPTOP
    assert fitting_processes(config, max(gpus, 1)) == most
    mark = "note" if most == gpus and most else "slow" if most else "wrong"
    assert found(config, hardware)["processes"].mark == mark


def test_a_cpu() -> None:
    findings = found(cifar(), LAPTOP)
    assert findings["device"].mark == "slow"
    # 800 epochs of 50,000 images at 40.7 GFLOP, on 8 cores of 50 GFLOP/s.
    assert "some 9.8 images/s" in findings["device"].text
    assert {finding.mark for subject, finding in findings.items() if subject != "device"} == {"ok"}
    assert found(load_config(CONFIGS / "demo_digits.yaml"), LAPTOP)["device"].mark == "ok"


@pytest.mark.parametrize(
    ("hardware", "overrides", "subject", "mark", "words"),
    [
        (T4, [], "precision", "slow", "perf.precision=fp32"),
        (T4, [], "normalisation", "slow", "compute capability 8.0"),
        (T4, [], "attention", "slow", "compute capability 8.0"),
        (T4, ["perf.kernels=triton"], "normalisation", "wrong", "use auto or pytorch"),
        (H100, ["perf.precision=fp32"], "precision", "slow", "matrix units"),
        (H100, ["perf.compile=false"], "compile", "slow", "perf.compile=auto"),
        (H100, ["perf.kernels=pytorch"], "normalisation", "slow", "perf.kernels=auto"),
        (H100, ["perf.channels_last=false"], "memory layout", "slow", "perf.channels_last=auto"),
        (H100, ["model.decoder.channels=160"], "attention", "slow", "no flash attention for 320"),
        (replace(H100, c=False), [], "compile", "wrong", "install gcc"),
        (replace(H100, triton=False), [], "compile", "wrong", "pip install triton"),
        (replace(LAPTOP, c=False), [], "images", "slow", "install gcc"),
        (replace(LAPTOP, cxx=False), ["perf.compile=true"], "compile", "wrong", "install g++"),
        (LAPTOP, ["perf.compile=true"], "compile", "slow", "minutes"),
        (LAPTOP, ["perf.precision=bf16"], "precision", "slow", "few CPUs"),
        (LAPTOP, ["perf.kernels=triton"], "normalisation", "wrong", "on a CPU"),
    ],
)
def test_what_is_slow_or_wrong(hardware: Hardware, overrides: list[str], subject: str, mark: Any, words: str) -> None:
    finding = found(cifar(*overrides), hardware)[subject]
    assert finding.mark == mark
    assert words in f"{finding.text}; {finding.remedy}"


@pytest.mark.parametrize(
    ("hardware", "overrides", "longest", "mark", "words"),
    [
        (H100, [], 32, "ok", "one launch resizes, one does all operations"),
        (H100, ["data.kernels=triton"], 256, "ok", "one launch resizes"),
        (H100, ["data.source_size=31"], 256, "slow", "data.source_size 31 of images of 256 pixels"),
        (H100, ["data.target_size=72"], 96, "slow", "data.target_size 72 is beyond the kernel for operations"),
        (H100, ["data.kernels=pytorch"], 32, "slow", "data.kernels=auto"),
        (T4, [], 32, "slow", "hundreds of launches for a batch: it needs compute capability 8.0"),
        (T4, ["data.kernels=triton"], 32, "wrong", "data.kernels is triton, but it needs compute capability 8.0"),
        (LAPTOP, ["data.kernels=triton"], 32, "wrong", "use auto or pytorch"),
    ],
)
def test_what_makes_the_views(hardware: Hardware, overrides: list[str], longest: int, mark: str, words: str) -> None:
    finding = found(cifar(*overrides), hardware, longest)["views"]
    assert finding.mark == mark
    assert words in f"{finding.text}; {finding.remedy}"


def test_views_without_operations_may_be_large() -> None:
    plain = [f"data.{view}.randaugment_num_ops=0" for view in ("source", "target")]
    assert found(cifar("data.target_size=72", *plain), H100, 72)["views"].mark == "ok"
    assert "views" not in found(cifar(), LAPTOP, 32)
    assert "views" not in found(cifar("data.backend=torchvision"), H100, 32)


def test_resident_images_without_a_compiler() -> None:
    """What auto keeps to is slower than DALI, which is said."""
    images = found(cifar(), replace(LAPTOP, c=False), 32)["images"]
    assert images.mark == "slow"
    assert "install gcc; or, for views alone, data.backend=dali" in images.remedy
    others = found(cifar("data.backend=torchvision"), replace(LAPTOP, c=False))["images"]
    assert "data.backend=dali" not in others.remedy


def test_memory_that_suffices_or_not() -> None:
    one_level = ["model.decoder.multipliers=[1]", "model.decoder.attention=[true]", "model.decoder.blocks=1"]
    config = load_config(CONFIGS / "demo_digits.yaml", ["perf.compile=false", *one_level])
    fits = memory_finding(config, H100, 8)
    assert fits.mark == "ok"
    assert "on each of 8 GPUs (bf16, channels_last, eager), fits in 80.0 GiB" in fits.text
    ten = load_config(
        CONFIGS / "demo_digits.yaml",
        ["perf.compile=false", *one_level, "parallel.strategy=hsdp", "train.global_batch_images=80"],
    )
    assert "on each of 10 GPUs" in memory_finding(ten, H100, 10).text
    small = memory_finding(config, replace(H100, memory_bytes=1 << 30), 1)
    assert small.mark == "wrong"
    assert "does not fit in 1.0 GiB" in small.text
    assert "on one GPU" in small.text
    laptop = memory_finding(config, replace(LAPTOP, memory_bytes=1 << 30), 1)
    assert laptop.mark == "ok"
    assert "on the CPU (fp32, contiguous, eager), fits in 1.0 GiB" in laptop.text


@pytest.mark.parametrize(
    ("stat", "available"),
    [("anon 900\nactive_file 10\ninactive_file 300\nslab 5\n", 1000 - 700 + 300), ("anon 900\n", 300), (None, 300)],
)
def test_files_that_a_container_has_read_are_given_up_for_memory(
    stat: str | None, available: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soda_fast.doctor.machine._CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    assert available_memory_bytes() == available
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes() > 1000


def test_widths_of_heads() -> None:
    assert head_widths(cifar()) == [256]
    assert head_widths(cifar("model.decoder.head_channels=64")) == [64]
    assert head_widths(cifar("model.decoder.attention=[true,false,false,false]")) == [128, 256]


def test_this_machine() -> None:
    hardware = this_hardware()
    assert hardware.cores > 0
    assert hardware.on_gpu == (hardware.gpus > 0)
