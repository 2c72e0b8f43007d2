"""What kernels that are given addresses ask of tensors."""

import torch
from torch import Tensor


def check_memory(device: torch.device, *wanted: tuple[Tensor, torch.dtype]) -> None:
    """Assert that each tensor is contiguous, of its type and on the device: a kernel reads and writes it as such."""
    for tensor, dtype in wanted:
        right = tensor.is_contiguous() and tensor.dtype == dtype and tensor.device == device
        assert right, f"a kernel needs contiguous memory of {dtype} on {device}"
