"""Where the Triton kernel runs."""

import importlib.util
from functools import lru_cache

import torch
from torch import Tensor

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_CAPABILITY = (8, 0)


def takes_triton(backend: str, x: Tensor) -> bool:
    """Whether "auto" or "triton" means the fused kernel for x.

    Raises:
        ValueError: "triton" where it is not available.
    """
    if backend == "auto":
        return x.is_cuda and why_not_triton(x.device, x.dtype) is None
    obstacle = why_not_triton(x.device, x.dtype)
    if obstacle:
        raise ValueError(f"backend 'triton': {obstacle}; use 'auto' or 'pytorch'")
    return True


def why_not_triton(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """What is in the way of the fused kernel for tensors of this kind; None: nothing."""
    if dtype not in _DTYPES:
        return f"the kernel takes bfloat16, float16 and float32, not {dtype}".replace("torch.", "")
    return _why_not_on(device)


@lru_cache
def _why_not_on(device: torch.device) -> str | None:
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
