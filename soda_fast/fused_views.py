"""The operations on views in one launch, where a GPU takes it."""

from typing import Literal

import torch
from torch import Tensor

from soda_fast.errors import TrainingError
from soda_kernels import view_operations, why_not_triton
from soda_kernels.view_operations import FIELDS, Step

__all__ = ["FIELDS", "Kernels", "Step", "carry_out", "check_kernels", "takes"]

Kernels = Literal["auto", "triton", "pytorch"]


def check_kernels(kernels: Kernels, device: torch.device) -> None:
    """ValueError if data.kernels is triton and it does not run on the device."""
    obstacle = why_not_triton(device) if kernels == "triton" else None
    if obstacle:
        raise ValueError(f"data.kernels: triton is not available here: {obstacle}; use auto or pytorch")


def takes(kernels: Kernels, views: Tensor) -> bool:
    """Whether `carry_out` is for these (N, S, S, 3) views. Larger ones do not fit into a program."""
    wanted = kernels == "triton" or (kernels == "auto" and views.is_cuda and why_not_triton(views.device) is None)
    return wanted and views.shape[1] <= view_operations.LARGEST


def carry_out(views: Tensor, steps: Tensor) -> None:
    """Do to each view its steps, in place, in one launch.

    Args:
        views: (N, S, S, 3) uint8, contiguous.
        steps: (N, K, FIELDS) int32, on the same device: a `Step` and its numbers.

    Raises:
        TrainingError: the kernel cannot be compiled or started there.
    """
    try:
        view_operations.change_views(views, steps)
    except view_operations.KernelFailed as error:
        raise TrainingError(f"{error}; data.kernels=pytorch does without it, and makes the same views") from error
