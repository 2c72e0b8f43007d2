"""What the operation is told besides tensors, and what is wrong with it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Options:
    """The numbers of one call: see `group_norm_modulate`."""

    num_groups: int
    eps: float
    silu: bool
    dropout_p: float


def check(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    eps: float,
    activation: str,
    dropout_p: float,
    dropout_seed: Tensor | None,
    bias: Tensor | None,
    backend: str,
) -> None:
    """Refuse what does not fit together: a ValueError that names the argument, its value and what it should be."""
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    optional = {"bias": bias, "skip": skip}
    tensors = {"x": x, "scale": scale, "shift": shift} | {k: v for k, v in optional.items() if v is not None}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating, got {tensor.dtype}")
        _check_device(name, tensor, x)
    num_samples, channels, height, width = x.shape
    if skip is not None:
        if (
            skip.ndim != 4
            or skip.shape[1] == 0
            or skip.dtype != x.dtype
            or (skip.shape[0], *skip.shape[2:]) != (num_samples, height, width)
        ):
            wanted = f"({num_samples}, 1 or more, {height}, {width}) in {x.dtype}"
            raise ValueError(f"skip must be {wanted}, got {tuple(skip.shape)} in {skip.dtype}")
        channels += skip.shape[1]
    if scale.shape != (num_samples, channels) or shift.shape != (num_samples, channels):
        found = f"{tuple(scale.shape)} and {tuple(shift.shape)}"
        raise ValueError(f"scale and shift must be (N, C) = {(num_samples, channels)}, got {found}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be (C,) = {(channels,)}, got {tuple(bias.shape)}")
    if num_groups < 1 or channels % num_groups or channels == 0:
        raise ValueError(f"num_groups must divide the {channels} channels, got {num_groups}")
    if height * width == 0:
        raise ValueError(f"x must have pixels, got shape {tuple(x.shape)}")
    if not eps >= 0:
        raise ValueError(f"eps must be 0 or more, got {eps}")
    if activation not in ("silu", "none"):
        raise ValueError(f"activation must be 'silu' or 'none', got {activation!r}")
    if backend not in ("auto", "triton", "pytorch"):
        raise ValueError(f"backend must be 'auto', 'triton' or 'pytorch', got {backend!r}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")
    if dropout_p > 0:
        _check_seed(dropout_seed, x)


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name} must be on x's device, {x.device}, got {tensor.device}")


def _check_seed(seed: Tensor | None, x: Tensor) -> None:
    num_samples = x.shape[0]
    if seed is None or seed.ndim > 1 or (seed.ndim == 1 and seed.shape[0] != num_samples):
        found = "none" if seed is None else f"shape {tuple(seed.shape)}"
        raise ValueError(f"dropout_p > 0 needs dropout_seed, a 0-d or ({num_samples},) int64 tensor; got {found}")
    if seed.dtype != torch.int64:
        raise ValueError(f"dropout_seed must be int64, got {seed.dtype}")
    _check_device("dropout_seed", seed, x)
