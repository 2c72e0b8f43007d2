"""The facts about a machine on which choices rest."""

from dataclasses import dataclass
from typing import Literal

import torch

from soda_fast.cores import available_cores
from soda_fast.doctor.compilers import c_compiler, cxx_compiler, triton_compiler
from soda_fast.doctor.machine import available_memory_bytes, installed
from soda_kernels import why_not_triton


@dataclass(frozen=True)
class Hardware:
    """device: where training will run. gpus: of this machine, 0 on a CPU; gpu, capability: of the first one.
    cores: for this process. memory_bytes: of the smallest GPU, or what a CPU has available. triton, c, cxx: whether
    there is Triton and a compiler for C (Triton's on a GPU, this package's on a CPU) and C++. obstacle: what is in the
    way of the fused kernel; None: nothing."""

    device: Literal["cuda", "cpu"]
    gpus: int
    gpu: str
    capability: tuple[int, int]
    cores: float
    memory_bytes: int
    triton: bool
    c: bool
    cxx: bool
    obstacle: str | None

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def has_bf16(self) -> bool:
        """Units for bf16 matrix products, and what flash attention and the fused kernel need."""
        return self.on_gpu and self.capability >= (8, 0)


def this_hardware() -> Hardware:
    """Of the machine that asks."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    memory = [torch.cuda.get_device_properties(number).total_memory for number in range(gpus)]
    return Hardware(
        device="cuda" if gpus else "cpu",
        gpus=gpus,
        gpu=torch.cuda.get_device_name(device) if gpus else "",
        capability=torch.cuda.get_device_capability(device) if gpus else (0, 0),
        cores=available_cores(),
        memory_bytes=min(memory) if gpus else available_memory_bytes(),
        triton=installed("triton") is not None,
        c=(triton_compiler() if gpus else c_compiler()) is not None,
        cxx=cxx_compiler() is not None,
        obstacle=why_not_triton(device),
    )
