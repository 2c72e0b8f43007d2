"""How much memory a configuration needs on each GPU, said before anything is trained."""

from dataclasses import dataclass, replace
from typing import Literal

from soda_fast.config import Config, resolve_perf
from soda_fast.config.schema import PerfConfig
from soda_fast.memory.ledger import Usage
from soda_fast.memory.simulation import simulate

GIB = 2**30
OUTSIDE_BYTES = {"cuda": 2 * GIB, "cpu": GIB // 2}
"""Not PyTorch's tensors. On a GPU the CUDA context, NCCL's buffers, workspaces of cuDNN and cuBLAS, DALI, gaps in
between; on a CPU Python and the libraries."""
TOLERANCE = 0.1
"""How far a prediction may be off."""
_KINDS = {
    "weights": "float32 shard",
    "gradients": "float32 shard",
    "optimizer": "AdamW's two moments, float32 shards",
    "average": "moving averages, float32 shards",
    "gathered": "whole weights and gradients, while a block has them",
    "activations": "kept for the backward pass, and temporary ones",
    "images": "the batch",
}


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of the process that needs most.

    processes: of the run; machine_processes: on each machine. device: "cuda" or "cpu". setting: what was simulated.
    """

    usage: Usage
    processes: int
    machine_processes: int
    device: str
    setting: str

    @property
    def peak_bytes(self) -> int:
        """The most that PyTorch's tensors take at a time: to be compared with torch.cuda.max_memory_allocated()."""
        return self.usage.peak

    def fit(self, memory_bytes: int) -> Literal["fits", "may not fit", "does not fit"]:
        """Whether `memory_bytes` of a GPU, or of a CPU for each process, are enough."""
        need = self.peak_bytes + OUTSIDE_BYTES[self.device]
        if need * (1 + TOLERANCE) <= memory_bytes:
            return "fits"
        return "may not fit" if need <= memory_bytes else "does not fit"

    def verdict(self, memory_bytes: int) -> str:
        """`fit` in a sentence."""
        fit = self.fit(memory_bytes)
        remedy = "; train.accumulate, perf.activation_checkpointing=true or more processes take less"
        return f"{fit} in {memory_bytes / GIB:.1f} GiB{'' if fit == 'fits' else remedy}"

    def lines(self) -> list[str]:
        """For a person."""
        place = "GPU" if self.device == "cuda" else "process"
        machines = -(-self.processes // self.machine_processes)
        title = f"memory       per {place}, {self.processes} process{'es' if self.processes > 1 else ''}"
        title += f" on {machines} machines" if machines > 1 else ""
        lines = [f"{title}, GiB:        at the peak      at most"]
        for kind, meaning in _KINDS.items():
            at_peak, largest = (part.get(kind, 0) / GIB for part in (self.usage.at_peak, self.usage.largest))
            lines.append(f"  {kind:12} {at_peak:12.3f} {largest:12.3f}   {meaning}")
        return [*lines, f"  {'peak':12} {self.peak_bytes / GIB:12.3f}   {self.setting}"]


def predict_memory(
    config: Config, processes: int = 1, machine_processes: int | None = None, device: str = "cuda"
) -> MemoryPlan:
    """Run the trainer's own step on fake tensors in a fake process group, and note what is allocated when.

    Takes seconds, and tens of seconds if blocks are compiled (`perf.compile`); needs no GPU and next to no memory.
    Compiled blocks are planned as by torch.compile, but their operations run one by one: temporary tensors that
    generated code would not make are counted. Not counted is what libraries allocate inside an operation (cuDNN's
    workspaces, in the first steps also those of the algorithms that it tries), and what CUDA graphs set aside
    (`perf.compile_mode`). Nor is the loader's copy of all images, which it keeps on a GPU if they are small
    (`data.resident_device_mib` at most): how many bytes they take, only the data tell.

    Args:
        config: any; no data are read.
        processes: of the run.
        machine_processes: of one machine; None: at most 8.
        device: "cuda": "auto" in `perf` is a GPU's choice. "cpu": a CPU's.

    Raises:
        ConfigError: `processes` do not fit the configuration.
    """
    perf = resolve_perf(config.perf, device == "cuda")
    if device == "cuda" and perf.kernels == "triton":
        perf = replace(perf, kernels="auto")  # the simulation runs beside a GPU's kernel, not in it
    machine_processes = machine_processes or min(processes, 8)
    usage = simulate(replace(config, perf=perf), processes, machine_processes)
    return MemoryPlan(usage, processes, machine_processes, device, _setting(perf))


def _setting(perf: PerfConfig) -> str:
    """What in a resolved `perf` decides on memory, in words."""
    return ", ".join(
        [
            "bf16" if perf.precision == "bf16" else "fp32",
            "channels_last" if perf.channels_last is True else "contiguous",
            "compiled" if perf.compile is True else "eager",
        ]
    )
