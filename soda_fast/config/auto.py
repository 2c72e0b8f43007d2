"""What `auto` means in the `perf` section."""

from dataclasses import replace

from soda_fast.config.schema import PerfConfig


def resolve_perf(perf: PerfConfig, on_gpu: bool) -> PerfConfig:
    """The section with `auto` replaced by the fastest known for the device; `kernels` stays, the operator decides."""
    return replace(
        perf,
        precision=("bf16" if on_gpu else "fp32") if perf.precision == "auto" else perf.precision,
        compile=on_gpu if perf.compile == "auto" else perf.compile,
        channels_last=on_gpu if perf.channels_last == "auto" else perf.channels_last,
    )
