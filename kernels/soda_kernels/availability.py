"""Where Triton kernels run."""

import importlib.util
from functools import lru_cache

import torch

_CAPABILITY = (8, 0)


@lru_cache
def why_not_triton(device: torch.device) -> str | None:
    """What is in the way of Triton kernels for tensors on the device; None: nothing."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type == "cpu":
        return None if _interpreted() else "it runs on GPUs, and these tensors are on a CPU"
    if device.type != "cuda" or torch.version.cuda is None:
        return f"it runs on CUDA devices, not on {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _CAPABILITY:
        return f"it needs compute capability 8.0, and {torch.cuda.get_device_name(device)} has {major}.{minor}"
    return None


def _interpreted() -> bool:
    """Whether the kernels were made for Triton's interpreter: TRITON_INTERPRET=1 at the time of their import."""
    from triton.runtime.interpreter import InterpretedFunction

    from soda_kernels.group_norm_modulate.triton_forward import forward_whole

    return isinstance(forward_whole, InterpretedFunction)
