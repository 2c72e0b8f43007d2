"""Memory layouts: which inputs are read as they lie, and where outputs go."""

import torch
from torch import Tensor


def dense(x: Tensor) -> Tensor:
    """x itself if it fills its memory in NCHW or channels_last order, else a copy: in channels_last if channels are
    neighbours, as in a slice of a channels_last tensor."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous(memory_format=torch.channels_last if x.stride(1) == 1 else torch.contiguous_format)


def layout_of(x: Tensor) -> torch.memory_format:
    """Of a dense tensor. Where both orders are one (C = 1 or H = W = 1): contiguous."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def dense_skip(skip: Tensor | None, x: Tensor) -> Tensor | None:
    """skip in the layout of a dense x."""
    return None if skip is None else skip.contiguous(memory_format=layout_of(x))


def empty_output(x: Tensor, skip: Tensor | None) -> Tensor:
    """Memory for y: a dense x's strides, and room for skip's channels behind its own."""
    if skip is None:
        return torch.empty_like(x)
    num_samples, channels, height, width = x.shape
    shape = (num_samples, channels + skip.shape[1], height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def empty_parts(joined: Tensor, skip_channels: int) -> tuple[Tensor, Tensor | None]:
    """Memory for the gradients of x and of skip, where `joined` holds the channels of both."""
    if skip_channels == 0:
        return torch.empty_like(joined), None
    num_samples, channels, height, width = joined.shape

    def part(channels: int) -> Tensor:
        shape = (num_samples, channels, height, width)
        return torch.empty(shape, dtype=joined.dtype, device=joined.device, memory_format=layout_of(joined))

    return part(channels - skip_channels), part(skip_channels)
