"""The operators that PyTorch knows: soda_kernels::group_norm_modulate and its backward.

Opaque custom operators, not `triton_op`: torch.compile then never looks inside, so that one model compiles on a CPU
(where the reference runs) and on a GPU; and there is nothing around the kernel left to fuse with it. They count as no
FLOPs: model FLOPs are those of convolutions, linear layers and attention.
"""

from typing import Any

import torch
from torch import Tensor

from soda_kernels.group_norm_modulate import reference
from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.backend import takes_triton
from soda_kernels.group_norm_modulate.layout import dense, dense_skip, empty_output, empty_parts


@torch.library.custom_op("soda_kernels::group_norm_modulate", mutates_args=())
def forward_op(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    num_groups: int,
    eps: float,
    silu: bool,
    dropout_p: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y; cat(x, skip), empty without a skip; mean and rstd (N, G). seeds: (N,) int64. backend: "auto" or "triton",
    settled here, out of the compiler's sight."""
    options = Options(num_groups, eps, silu, dropout_p)
    if takes_triton(backend, x):
        from soda_kernels.group_norm_modulate import launch

        kernel, (y, joined, mean, rstd) = launch.forward(x, skip, scale, shift, bias, seeds, options)
        kernel.run()
    else:
        y, joined, mean, rstd = reference.forward(x, skip, scale, shift, bias, seeds, options)
    return y, _or_empty(joined, y), mean, rstd


@torch.library.custom_op("soda_kernels::group_norm_modulate_backward", mutates_args=())
def backward_op(
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
    num_groups: int,
    eps: float,
    silu: bool,
    dropout_p: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx, dskip; dscale, dshift and dbias (N, C). dskip and dbias are empty without a skip and a bias."""
    options = Options(num_groups, eps, silu, dropout_p)
    arguments = (dy, djoined, x, scale, shift, bias, seeds, mean, rstd, skip_channels, options)
    dbias: Tensor | None
    if takes_triton(backend, x):
        from soda_kernels.group_norm_modulate import launch

        kernel, (dx, dskip, dscale, dshift, dbias) = launch.backward(*arguments)
        kernel.run()
    else:
        dx, dskip, dscale, dshift, dbias = reference.backward(*arguments)
    return dx, _or_empty(dskip, dx), dscale, dshift, _or_empty(None if bias is None else dbias, dscale)


def _or_empty(value: Tensor | None, like: Tensor) -> Tensor:
    """An operator's result cannot be None."""
    return like.new_empty(0) if value is None else value


@forward_op.register_fake
def _(x, skip, scale, shift, bias, seeds, num_groups, eps, silu, dropout_p, backend):  # type: ignore[no-untyped-def]
    x = dense(x)
    y = empty_output(x, dense_skip(skip, x))
    statistics = x.new_empty(x.shape[0], num_groups, dtype=torch.promote_types(x.dtype, torch.float32))
    return y, _or_empty(None if skip is None else torch.empty_like(y), y), statistics, torch.empty_like(statistics)


@backward_op.register_fake
def _(dy, djoined, x, scale, shift, bias, seeds, mean, rstd, skip_channels, *options):  # type: ignore[no-untyped-def]
    dx, dskip = empty_parts(dense(x), skip_channels)
    dscale = x.new_empty(scale.shape, dtype=torch.promote_types(x.dtype, torch.float32))
    dbias = None if bias is None else torch.empty_like(dscale)
    return dx, _or_empty(dskip, dx), dscale, torch.empty_like(dscale), _or_empty(dbias, dscale)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, skip, scale, shift, bias, seeds, *ctx.options = inputs
    _, joined, mean, rstd = output
    ctx.skip_channels = 0 if skip is None else skip.shape[1]
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x if skip is None else joined, scale, shift, bias, seeds, mean, rstd)


def _backward(ctx: Any, dy: Tensor, djoined: Tensor, _dmean: Tensor, _drstd: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing recomputes on asking
    _, scale, shift, bias, *_ = saved
    has_skip = ctx.skip_channels > 0
    gradients = backward_op(dy, djoined if has_skip else None, *saved, ctx.skip_channels, *ctx.options)
    dx, dskip, dscale, dshift, dbias = gradients
    bias_gradient = None if bias is None else dbias.sum(dim=0).to(bias.dtype)
    skip_gradient = dskip if has_skip else None
    return dx, skip_gradient, dscale.to(scale.dtype), dshift.to(shift.dtype), bias_gradient, *[None] * 6


forward_op.register_autograd(_backward, setup_context=_setup_context)
