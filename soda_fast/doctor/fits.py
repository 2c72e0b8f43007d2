"""Whether a configuration's memory suffices, as predicted (soda_fast/memory)."""

from soda_fast.config import Config
from soda_fast.doctor.findings import Finding, Mark
from soda_fast.doctor.hardware import Hardware
from soda_fast.memory import predict_memory

_GIB = 2**30
_MARKS: dict[str, Mark] = {"fits": "ok", "may not fit": "slow", "does not fit": "wrong"}


def memory_finding(config: Config, hardware: Hardware, processes: int) -> Finding:
    """For so many of the machine's GPUs, or for the CPU.

    Raises:
        ConfigError: `processes` do not fit the configuration.
    """
    plan = predict_memory(config, processes, machine_processes=processes, device=hardware.device)
    one = "on one GPU" if hardware.on_gpu else "on the CPU"
    place = f"on each of {processes} GPUs" if processes > 1 else one
    verdict = plan.verdict(hardware.memory_bytes)
    text = f"{plan.peak_bytes / _GIB:.2f} GiB at the peak predicted {place} ({plan.setting}), {verdict}"
    return Finding(_MARKS[plan.fit(hardware.memory_bytes)], "memory", text)
