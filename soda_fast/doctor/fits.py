"""Whether a configuration's memory suffices, as predicted (soda_fast/memory)."""

from soda_fast.config import Config, ConfigError
from soda_fast.doctor.findings import Finding
from soda_fast.doctor.hardware import Hardware
from soda_fast.memory import MemoryPlan, predict_memory

_GIB = 2**30


def memory_finding(config: Config, hardware: Hardware) -> Finding:
    """For all GPUs of the machine, or for one if the batch cannot be shared out among them; or for the CPU."""
    plan = _predict(config, hardware)
    verdict = plan.verdict(hardware.memory_bytes)
    one = "on one GPU" if hardware.on_gpu else "on the CPU"
    place = f"on each of {plan.processes} GPUs" if plan.processes > 1 else one
    text = f"{plan.peak_bytes / _GIB:.2f} GiB at the peak predicted {place} ({plan.setting}), {verdict}"
    if "does not fit" in verdict:
        return Finding("wrong", "memory", text)
    return Finding("slow" if "may not fit" in verdict else "ok", "memory", text)


def _predict(config: Config, hardware: Hardware) -> MemoryPlan:
    try:
        return predict_memory(config, max(hardware.gpus, 1), device=hardware.device)
    except ConfigError:
        return predict_memory(config, 1, device=hardware.device)
