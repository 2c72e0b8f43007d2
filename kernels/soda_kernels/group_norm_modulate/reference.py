"""The operation in plain PyTorch: the meaning of the fused kernel, its judge, and what runs on a CPU.

Arithmetic is in float32, or in float64 for float64 inputs. The variance is taken about the mean, in two passes: a mean
far from zero costs no digits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.dropout import keep_mask
from soda_kernels.group_norm_modulate.layout import dense, empty_parts, layout_of


def forward(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """-> y; cat(x, skip), if there is a skip; mean and 1 / sqrt(variance + eps) of each group, (N, G). Differentiable
    by autograd."""
    x = dense(x)
    joined = None if skip is None else torch.cat((x, skip), dim=1).contiguous(memory_format=layout_of(x))
    x = x if joined is None else joined
    grouped = _grouped(x, bias, options)
    variance, mean = torch.var_mean(grouped, dim=2, correction=0)
    rstd = torch.rsqrt(variance + options.eps)
    y = _modulated(_normalised(grouped, mean, rstd).view(x.shape), scale, shift)
    if options.silu:
        y = F.silu(y)
    y = _dropped(y, seeds, options)
    return _laid_out(y, x), joined, mean, rstd


def backward(
    dy: Tensor,
    djoined: Tensor | None,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    skip_channels: int,
    options: Options,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """The kernel's backward in the kernel's steps; the formulas are in triton_backward.py.

    Args:
        djoined: gradient of cat(x, skip), which is added to that of x and skip.
        x: all channels, those of skip included.

    Returns:
        dx and dskip, in x's layout; dscale, dshift, and dbias summed over positions alone, each (N, C) in the
        arithmetic's dtype.
    """
    x = dense(x)
    grouped = _grouped(x, bias, options)
    xhat = _normalised(grouped, mean, rstd).view(x.shape)
    du = _dropped(dy.to(xhat.dtype), seeds, options)
    if options.silu:
        du = torch.ops.aten.silu_backward(du, _modulated(xhat, scale, shift))
    dshift, dscale = du.sum(dim=(2, 3)), (du * xhat).sum(dim=(2, 3))

    wide_scale = scale.to(xhat.dtype)
    groups, elements = (x.shape[0], options.num_groups, x.shape[1] // options.num_groups), grouped.shape[2]
    m1 = (wide_scale * dshift).view(groups).sum(dim=2, keepdim=True) / elements
    m2 = (wide_scale * dscale).view(groups).sum(dim=2, keepdim=True) / elements
    dxhat = (du * wide_scale[:, :, None, None]).reshape(grouped.shape)
    dx = dxhat.sub_(m1).addcmul_(xhat.view(grouped.shape), m2, value=-1).mul_(rstd[:, :, None]).view(x.shape)
    dbias = dx.sum(dim=(2, 3))
    if djoined is not None:
        dx = dx + djoined
    if skip_channels == 0:
        return _laid_out(dx, x), None, dscale, dshift, dbias
    parts = empty_parts(x, skip_channels)
    for part, gradient in zip(parts, dx.split((x.shape[1] - skip_channels, skip_channels), dim=1), strict=True):
        if part is not None:
            part.copy_(gradient)
    return *parts, dscale, dshift, dbias


def _laid_out(value: Tensor, x: Tensor) -> Tensor:
    """value in x's dtype and layout, without a copy where it is so already."""
    if value.dtype == x.dtype and value.stride() == x.stride():
        return value
    return torch.empty_like(x).copy_(value)


def _grouped(x: Tensor, bias: Tensor | None, options: Options) -> Tensor:
    """x plus bias as (N, G, elements of a group)."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    return x.reshape(x.shape[0], options.num_groups, x.shape[1:].numel() // options.num_groups)


def _normalised(grouped: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (grouped - mean[:, :, None]) * rstd[:, :, None]


def _modulated(xhat: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift.to(xhat.dtype)[:, :, None, None], xhat, scale.to(xhat.dtype)[:, :, None, None])


def _dropped(y: Tensor, seeds: Tensor | None, options: Options) -> Tensor:
    if options.dropout_p == 0:
        return y
    assert seeds is not None, "checked by the operator"
    return torch.where(keep_mask(seeds, y.shape, options.dropout_p), y / (1 - options.dropout_p), 0.0)
