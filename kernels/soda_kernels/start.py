"""How a kernel that has no twin in the same call is started: what goes wrong is named."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


class KernelFailed(RuntimeError):
    """A kernel could not be compiled or started on a device; the message names both, and the cause."""


@contextmanager
def starting(kernel: str, device: torch.device) -> Iterator[None]:
    """Start a kernel on the device inside, and do nothing else there. kernel: what it is called in errors.

    Raises:
        KernelFailed: it cannot be compiled or started there, or earlier work on the device failed.
    """
    from triton.errors import TritonError

    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    # Triton's own, and what it lets through of others: of the driver and the C compiler; OSError and ImportError of a
    # cache folder that cannot be written, or that nothing may be executed from; AssertionError without libcuda.
    except (TritonError, RuntimeError, subprocess.SubprocessError, OSError, ImportError, AssertionError) as error:
        cause = str(error) or type(error).__name__
        raise KernelFailed(f"the kernel {kernel} failed on {_place(device)}: {cause}") from error


def _place(device: torch.device) -> str:
    if device.type != "cuda":
        return "this CPU"
    # A GPU reports what went wrong in earlier work at the next call, whichever that is.
    return f"{torch.cuda.get_device_name(device)}, or work on the device before it did"
