"""What a run costs: share of the GPUs' peak, GPU hours, energy, memory."""

import importlib
import importlib.util
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from soda_fast.config import Config
from soda_fast.flops import count_flops
from soda_fast.gpus import sheet_of
from soda_fast.parallel import Processes

COUNTED = "convolutions, linear layers, attention"
"""What MFU counts; said wherever it is shown."""


class Accounting:
    """Figures for each line of metrics; none on a CPU.

    mfu: model FLOPs (forward and backward of convolutions, linear layers and attention, 2 per multiply-add; nothing
    that is computed again) over the data sheet's dense bf16 peak of all GPUs; absent in fp32 and on GPUs that
    soda_fast/gpus.py does not list. gpu_hours: processes times the time since the run began, pauses for probes and
    checkpoints included; a resumed run goes on from the line that it resumes at. energy_kwh: of all GPUs, from NVML's
    counters, if the package pynvml is there (nvidia-ml-py) on all processes.
    """

    def __init__(self, config: Config, processes: Processes, bf16: bool) -> None:
        self._processes = processes
        self._sheet = sheet_of(processes.device) if bf16 else None
        self._flops = count_flops(config).forward_backward if self._sheet else 0
        self._read_joules = energy_counter(processes.device)
        self._begin, self._joules = time.monotonic(), self._read_joules()
        self._before: dict[str, float] = {}

    @property
    def notice(self) -> str | None:
        """What MFU is measured against; None where there is none."""
        if self._sheet is None:
            return None
        return (
            f"MFU: FLOPs of {COUNTED} ({self._flops / 1e9:.4g} GFLOP per image) over the data sheet's "
            f"{self._sheet.bf16_tflops:,.0f} bf16 TFLOP/s of a {self._sheet.name}"
        )

    def resume(self, metrics: Path) -> None:
        """Add what the lines of an earlier attempt have counted."""
        self._before = last_values(metrics, ("gpu_hours", "energy_kwh"))

    def values(self, images_per_second: float) -> dict[str, float]:
        """The figures, now. A collective on GPUs; call it where the host has waited for the device anyway."""
        if self._processes.device.type != "cuda":
            return {}
        world = self._processes.world_size
        joules = torch.tensor(self._read_joules() - self._joules, dtype=torch.float64, device=self._processes.device)
        cost = spent(world, time.monotonic() - self._begin, world * self._processes.mean(joules).item(), self._before)
        if self._sheet:
            cost["mfu"] = share_of_peak(self._flops, images_per_second, world, self._sheet.bf16_tflops)
        return cost


def spent(gpus: int, seconds: float, joules: float, before: dict[str, float]) -> dict[str, float]:
    """GPU hours and energy since the run's beginning.

    Args:
        gpus, seconds, joules: of this attempt; NaN joules where nobody counted them.
        before: the same figures at its start.
    """
    cost = {"gpu_hours": before.get("gpu_hours", 0.0) + gpus * seconds / 3600}
    if math.isfinite(joules):
        cost["energy_kwh"] = before.get("energy_kwh", 0.0) + joules / 3.6e6
    return cost


def share_of_peak(flops_per_image: float, images_per_second: float, gpus: int, peak_tflops: float) -> float:
    """Model FLOPs utilisation, 0..1."""
    return flops_per_image * images_per_second / (gpus * peak_tflops * 1e12)


def last_values(metrics: Path, names: tuple[str, ...]) -> dict[str, float]:
    """The newest value of each of these names in a metrics.jsonl; those that it has not are left out."""
    found: dict[str, float] = {}
    if metrics.is_file():
        for line in metrics.read_text().splitlines():
            values = json.loads(line)
            found |= {name: values[name] for name in names if name in values}
    return found


def energy_counter(device: torch.device) -> Callable[[], float]:
    """Reads the joules that a GPU has used since its driver was loaded; NaN where nobody counts."""
    if device.type != "cuda" or importlib.util.find_spec("pynvml") is None:
        return lambda: math.nan
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode())
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # a GPU without a counter, or a part of one
        return lambda: math.nan
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def peak_memory(processes: Processes) -> dict[str, float]:
    """{"peak_memory_gib": the most that PyTorch's tensors took since the last call}, on the GPU that took most.

    Empty on CPUs, whose allocator does not count. A collective among the hosts: the devices have no part in it.
    """
    if processes.device.type != "cuda":
        return {}
    peak = torch.tensor(torch.cuda.max_memory_allocated(processes.device))
    torch.cuda.reset_peak_memory_stats(processes.device)
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    return {"peak_memory_gib": peak.item() / 2**30}
