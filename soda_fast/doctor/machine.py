"""What this machine has."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from soda_fast.cores import available_cores
from soda_fast.doctor.compilers import c_compiler, cxx_compiler, triton_compiler
from soda_fast.doctor.findings import Finding

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


def machine_findings() -> Iterator[Finding]:
    """GPUs and what drives them, compilers, cores, memory."""
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    yield Finding("note", "system", f"{platform.platform()}, Python {platform.python_version()}")
    yield Finding("note", "PyTorch", f"{torch.__version__}, {build}")
    yield from _gpus()
    yield Finding("note", "driver", driver_version() or "no NVIDIA driver")
    yield Finding("note", "NCCL", nccl_version() or "none: it comes with PyTorch for CUDA, and joins several GPUs")
    yield Finding("note", "DALI", installed("nvidia-dali-cuda") or "not installed")
    yield Finding("note", "Triton", installed("triton") or "not installed")
    yield Finding("note", "compilers", _compilers_text())
    yield Finding("note", "cores", f"{available_cores():g} for this process, of {os.cpu_count()}")
    yield Finding("note", "memory", f"{available_memory_bytes() / GIB:.1f} GiB available to this process")


def available_memory_bytes() -> int:
    """What the system can give now, within a container's limit."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    free = int(found.group(1)) << 10 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = (_read(_CGROUP / name).strip() for name in ("memory.max", "memory.current"))
    if not (limit.isdigit() and used.isdigit()):
        return free
    return min(free, int(limit) - int(used) + _given_up_when_needed())


def _given_up_when_needed() -> int:
    """Bytes of files read a while ago. They count as a container's memory; the system drops them when it is short."""
    found = re.search(r"^inactive_file (\d+)$", _read(_CGROUP / "memory.stat"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def installed(prefix: str) -> str | None:
    """Version of the installed distribution whose name begins so."""
    for distribution in importlib.metadata.distributions():
        if (distribution.name or "").lower().startswith(prefix):
            return f"{distribution.version} ({distribution.name})"
    return None


def driver_version() -> str | None:
    """Of NVIDIA's kernel module."""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _read(Path("/proc/driver/nvidia/version")))
    if found:
        return found.group(1)
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.split("\n")[0].strip() or None


def nccl_version() -> str | None:
    """Of the library in PyTorch."""
    if torch.version.cuda is None or not torch.distributed.is_nccl_available():
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield _no_gpu()
        return
    count = torch.cuda.device_count()
    properties = [torch.cuda.get_device_properties(number) for number in range(count)]
    kinds = Counter((each.name, each.total_memory, each.major, each.minor) for each in properties)
    for (name, memory, major, minor), number in kinds.items():
        text = f"{number} x {name}, {memory / GIB:.1f} GiB, compute capability {major}.{minor}"
        yield Finding("ok", "GPU", text)
    if len(kinds) > 1:
        yield Finding("slow", "GPU", "not all of one kind", "the slowest decides; choose with CUDA_VISIBLE_DEVICES")
    for number in range(count):
        free, total = torch.cuda.mem_get_info(number)
        if free < 0.9 * total:
            text = f"number {number} has {free / GIB:.1f} of {total / GIB:.1f} GiB free"
            yield Finding("slow", "GPU", text, "somebody else works on it: see nvidia-smi")
    alone = [n for n in range(1, count) if not torch.cuda.can_device_access_peer(0, n)]
    if alone:
        text = f"number 0 does not reach the memory of {', '.join(map(str, alone))}"
        yield Finding("slow", "GPU", text, "what they exchange goes through the host's memory")


def _no_gpu() -> Finding:
    if driver_version() is None:
        return Finding("note", "GPU", "none; training will run on the CPU")
    if torch.version.cuda is None:
        remedy = "install PyTorch for CUDA (pytorch.org)"
        return Finding("slow", "GPU", "there is a driver, but this PyTorch is built without CUDA", remedy)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        text = f"none is visible: CUDA_VISIBLE_DEVICES is {hidden!r}"
        return Finding("slow", "GPU", text, "unset it, or name a GPU")
    text = f"there is a driver, but PyTorch for CUDA {torch.version.cuda} finds no GPU that it can use"
    return Finding("slow", "GPU", text, "the driver may be too old for it: see nvidia-smi")


def _compilers_text() -> str:
    c, triton, cxx = (found or "none" for found in (c_compiler(), triton_compiler(), cxx_compiler()))
    return f"C {c}{'' if triton == c else f' (Triton: {triton})'}, C++ {cxx}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
