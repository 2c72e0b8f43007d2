"""What does the operation: the fused kernel, or PyTorch."""

import torch
from torch import Tensor

from soda_kernels.availability import why_not_triton

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def takes_triton(backend: str, x: Tensor) -> bool:
    """Whether "auto" or "triton" means the fused kernel for x.

    Raises:
        ValueError: "triton" where it is not available.
    """
    if backend == "auto":
        return x.is_cuda and _why_not(x) is None
    obstacle = _why_not(x)
    if obstacle:
        raise ValueError(f"backend 'triton': {obstacle}; use 'auto' or 'pytorch'")
    return True


def _why_not(x: Tensor) -> str | None:
    if x.dtype not in _DTYPES:
        return f"the kernel takes bfloat16, float16 and float32, not {x.dtype}".replace("torch.", "")
    return why_not_triton(x.device)
