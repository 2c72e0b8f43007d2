"""Which path each part of training will take, and why."""

from collections.abc import Iterator

from soda_fast.config import Config, resolve_perf, run_length_images
from soda_fast.data.executor import DALI_DIFFERS, Backend, resolve_backend
from soda_fast.doctor.findings import Finding
from soda_fast.doctor.hardware import Hardware
from soda_fast.doctor.processes import fitting_processes, why_not
from soda_fast.doctor.views import view_findings
from soda_fast.flops import count_flops

CORE_FLOPS_PER_S = 50e9
"""About what a CPU core computes in fp32 convolutions: of two cores of an AMD EPYC, measured."""
_SMALL_MODEL_FLOPS = 1e9
_FLASH_HEAD = 256
_CORES_PER_GPU = 4
_BACKENDS = {"dali": "DALI", "batched": "images in memory, a batch at once", "torchvision": "torchvision"}


def path_findings(
    config: Config, hardware: Hardware, train_images: int | None, longest: int | None
) -> Iterator[Finding]:
    """One finding for each choice that `auto` makes, or that the configuration forces.

    train_images: None: not known. longest: side in pixels of those that will lie in memory decoded; None: none will.
    """
    yield (Finding("ok", "device", f"GPU, {hardware.gpu}") if hardware.on_gpu else _cpu(config, hardware, train_images))
    yield from _processes(config, hardware)
    yield from _images(config, hardware, longest)
    yield _precision(config, hardware)
    yield _compile(config, hardware)
    yield _normalisation(config, hardware)
    yield _layout(config, hardware)
    yield _attention(config, hardware)


def _cpu(config: Config, hardware: Hardware, train_images: int | None) -> Finding:
    flops, text = count_flops(config).forward_backward, f"CPU, {hardware.cores:g} cores"
    if flops < _SMALL_MODEL_FLOPS:
        return Finding("ok", "device", f"{text}; a model for CPUs, {flops / 1e9:.2g} GFLOP an image")
    rate = hardware.cores * CORE_FLOPS_PER_S / flops
    text += f"; {flops / 1e9:.3g} GFLOP an image: some {rate:.2g} images/s"
    if train_images is not None:
        text += f", {run_length_images(config, train_images) / rate / 86400:,.1f} days for this run"
    return Finding("slow", "device", text, "it needs a GPU")


def _processes(config: Config, hardware: Hardware) -> Iterator[Finding]:
    """Nothing where there can only be one, and one fits."""
    most = max(hardware.gpus, 1)
    count, obstacle = fitting_processes(config, most), why_not(config, most)
    if not count:
        yield Finding("wrong", "processes", str(obstacle))
    elif obstacle:
        yield Finding("slow", "processes", f"{count} of {most} GPUs at most: {obstacle}")
    elif most > 1:
        command = f"torchrun --nproc-per-node={most} -m soda_fast train CONFIG"
        yield Finding("note", "processes", f"`soda-fast train` uses one of {most} GPUs; all of them: {command}")


def _images(config: Config, hardware: Hardware, longest: int | None) -> Iterator[Finding]:
    try:
        backend = resolve_backend(config.data.backend, longest is not None)
    except ValueError as error:
        yield Finding("wrong", "images", str(error))
        return
    yield _loader(config, hardware, backend)
    yield from view_findings(config, hardware, backend, longest)


def _loader(config: Config, hardware: Hardware, backend: Backend) -> Finding:
    processes = fitting_processes(config, max(hardware.gpus, 1)) or 1
    threads = config.data.threads or max(1, int(hardware.cores) // processes)
    text = f"{_BACKENDS[backend]}, {_place(backend, hardware)}, {threads} threads a process"
    if backend == "torchvision" and hardware.on_gpu:
        return Finding("slow", "images", text, "it will hardly keep a GPU busy: pip install nvidia-dali-cuda130")
    if hardware.on_gpu and hardware.cores / processes < _CORES_PER_GPU:
        remedy = f"{hardware.cores / processes:g} cores for each GPU may be too few: watch data_wait_share"
        return Finding("slow", "images", text, remedy)
    if not hardware.on_gpu and not hardware.c:
        remedy = "without a C compiler NumPy and PyTorch make views and noise, several times slower: install gcc"
        if backend == "batched":
            remedy += f"; or, for views alone, data.backend=dali, {DALI_DIFFERS}"
        return Finding("slow", "images", text, remedy)
    return Finding("ok", "images", text)


def _place(backend: str, hardware: Hardware) -> str:
    if backend == "torchvision" or not hardware.on_gpu:
        return "on the CPU"
    return "augmented on the GPU" if backend == "batched" else "decoded and augmented on the GPU"


def _precision(config: Config, hardware: Hardware) -> Finding:
    bf16 = resolve_perf(config.perf, hardware.on_gpu).precision == "bf16"
    text = f"{'bf16' if bf16 else 'fp32'} ({_reason(config.perf.precision, hardware)})"
    text += "; weights, statistics and losses in fp32" if bf16 else ""
    if bf16 and not hardware.on_gpu:
        return Finding("slow", "precision", text, "few CPUs compute in bf16: perf.precision=auto")
    if bf16 and not hardware.has_bf16:
        remedy = "this GPU has no bf16 units (compute capability 8.0): perf.precision=fp32"
        return Finding("slow", "precision", text, remedy)
    if not bf16 and hardware.has_bf16:
        return Finding("slow", "precision", text, "perf.precision=bf16 uses the GPU's matrix units")
    return Finding("ok", "precision", text)


def _compile(config: Config, hardware: Hardware) -> Finding:
    on = resolve_perf(config.perf, hardware.on_gpu).compile is True
    text = f"{'each block compiled' if on else 'eager'} ({_reason(config.perf.compile, hardware)})"
    if not on:
        remedy = "perf.compile=auto fuses what lies between convolutions" if hardware.on_gpu else ""
        return Finding("slow" if hardware.on_gpu else "ok", "compile", text, remedy)
    missing = _missing_for_compile(hardware)
    if missing:
        return Finding("wrong", "compile", text, f"{missing}; or set perf.compile=false")
    if not hardware.on_gpu:
        return Finding("slow", "compile", text, "on CPUs that takes minutes and gains nothing: perf.compile=auto")
    return Finding("ok", "compile", f"{text}; minutes in the first step, seconds once cached")


def _missing_for_compile(hardware: Hardware) -> str | None:
    if not hardware.on_gpu:
        return None if hardware.cxx else "torch.compile needs a C++ compiler here: install g++"
    if not hardware.triton:
        return "torch.compile needs Triton here: pip install triton"
    return None if hardware.c else "Triton needs a C compiler: install gcc; CC, if set, must be one without arguments"


def _normalisation(config: Config, hardware: Hardware) -> Finding:
    choice, subject = config.perf.kernels, "normalisation"
    if choice == "triton" and hardware.obstacle:
        return Finding("wrong", subject, f"perf.kernels is triton, but {hardware.obstacle}", "use auto or pytorch")
    # On a CPU "auto" is plain PyTorch even where Triton's interpreter could run.
    if choice == "triton" or (choice == "auto" and hardware.on_gpu and not hardware.obstacle):
        return Finding("ok", subject, "fused Triton kernel: normalise, modulate, activate and drop at once")
    if not hardware.on_gpu:
        return Finding("ok", subject, "plain PyTorch: the fused Triton kernel is for GPUs")
    if hardware.obstacle:
        return Finding("slow", subject, f"plain PyTorch: {hardware.obstacle}")
    return Finding("slow", subject, "plain PyTorch (as configured)", "perf.kernels=auto takes the fused Triton kernel")


def _layout(config: Config, hardware: Hardware) -> Finding:
    on = resolve_perf(config.perf, hardware.on_gpu).channels_last is True
    text = f"{'channels_last' if on else 'contiguous'} ({_reason(config.perf.channels_last, hardware)})"
    if on != hardware.on_gpu:
        return Finding("slow", "memory layout", text, "perf.channels_last=auto is the faster one here")
    return Finding("ok", "memory layout", text)


def _attention(config: Config, hardware: Hardware) -> Finding:
    widths = head_widths(config)
    text = f"heads of {', '.join(map(str, widths))} channels"
    if not hardware.on_gpu:
        return Finding("ok", "attention", f"PyTorch's fused attention for CPUs, {text}")
    if resolve_perf(config.perf, hardware.on_gpu).precision != "bf16":
        return Finding("ok", "attention", f"no flash attention, which takes bf16; {text}")
    if not hardware.has_bf16:
        return Finding("slow", "attention", f"no flash attention, which needs compute capability 8.0; {text}")
    unfit = [width for width in widths if width > _FLASH_HEAD or width % 8]
    if unfit:
        remedy = f"it takes multiples of 8 up to {_FLASH_HEAD} (model.decoder.head_channels; that changes the model)"
        return Finding("slow", "attention", f"no flash attention for {', '.join(map(str, unfit))}; {text}", remedy)
    return Finding("ok", "attention", f"flash attention, {text}")


def head_widths(config: Config) -> list[int]:
    """Channels of an attention head, of each attention of another width; the middle of the UNet always attends."""
    decoder = config.model.decoder
    attended = [wide for wide, on in zip(decoder.multipliers, decoder.attention, strict=True) if on]
    widths = [decoder.channels * wide for wide in (*attended, decoder.multipliers[-1])]
    return sorted({decoder.head_channels or width for width in widths})


def _reason(choice: str | bool, hardware: Hardware) -> str:
    return f"auto on a {'GPU' if hardware.on_gpu else 'CPU'}" if choice == "auto" else "as configured"
