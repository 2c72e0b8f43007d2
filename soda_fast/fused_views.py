"""Views in two launches, one that resizes and one that does all operations, where a GPU takes them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from soda_fast.config.types import Kernels
from soda_fast.errors import TrainingError
from soda_kernels import KernelFailed, change_views, resize_views, why_not_triton
from soda_kernels.resize_views import LARGEST as LARGEST_RESIZED
from soda_kernels.resize_views import MOST_TAPS
from soda_kernels.view_operations import FIELDS, LARGEST, Step

__all__ = ["FIELDS", "Step", "carries_out", "carry_out", "check_kernels", "resize", "resizes", "threads_share_rows"]


def check_kernels(kernels: Kernels, device: torch.device) -> None:
    """ValueError if data.kernels is triton and it does not run on the device."""
    obstacle = why_not_triton(device) if kernels == "triton" else None
    if obstacle:
        raise ValueError(f"data.kernels: triton is not available here: {obstacle}; use auto or pytorch")


def resizes(kernels: Kernels, device: torch.device, size: int, taps: int) -> bool:
    """Whether `resize` is for views there of this side. taps: K of its weights, more for images much larger than their
    views."""
    return _are_wanted(kernels, device) and size <= LARGEST_RESIZED and taps <= MOST_TAPS


def carries_out(kernels: Kernels, device: torch.device, size: int) -> bool:
    """Whether `carry_out` is for views there of this side. Larger ones do not fit into a program."""
    return _are_wanted(kernels, device) and size <= LARGEST


def threads_share_rows(kernels: Kernels, device: torch.device) -> bool:
    """Whether a CPU's threads divide a batch among them. Not where Triton's interpreter makes views: what it replaces
    in Triton while a kernel runs, it replaces for all threads."""
    return device.type == "cpu" and not _are_wanted(kernels, device)


def _are_wanted(kernels: Kernels, device: torch.device) -> bool:
    return kernels == "triton" or (kernels == "auto" and device.type == "cuda" and why_not_triton(device) is None)


def resize(images: Tensor, boxes: Tensor, first: Tensor, weights: Tensor, precision_bits: int) -> Tensor:
    """`soda_kernels.resize_views`; a TrainingError if it cannot be compiled or started."""
    with _remedy():
        return resize_views(images, boxes, first, weights, precision_bits)


def carry_out(views: Tensor, steps: Tensor) -> None:
    """`soda_kernels.change_views`; a TrainingError if it cannot be compiled or started."""
    with _remedy():
        change_views(views, steps)


@contextmanager
def _remedy() -> Iterator[None]:
    try:
        yield
    except KernelFailed as error:
        raise TrainingError(f"{error}; data.kernels=pytorch does without it, and makes the same views") from error
