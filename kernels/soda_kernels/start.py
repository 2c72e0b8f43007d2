"""How a kernel that has no twin in the same call is started: what goes wrong is named."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


class KernelFailed(RuntimeError):
    """A kernel could not be compiled or started on a device; the message names both, and the cause."""


@contextmanager
def starting(kernel: str, device: torch.device) -> Iterator[None]:
    """Start a kernel on the device inside. kernel: what it is called in errors.

    Raises:
        KernelFailed: it cannot be compiled or started there.
    """
    from triton.errors import TritonError

    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    # Triton's own, and what it lets through of the driver's and the C compiler's errors.
    except (TritonError, RuntimeError, subprocess.SubprocessError) as error:
        place = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
        raise KernelFailed(f"the kernel {kernel} failed on {place}: {error}") from error
