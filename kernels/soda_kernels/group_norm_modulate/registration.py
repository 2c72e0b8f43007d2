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
from soda_kernels.group_norm_modulate.availability import takes_triton


@torch.library.custom_op("soda_kernels::group_norm_modulate", mutates_args=())
def forward_op(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    num_groups: int,
    eps: float,
    silu: bool,
    dropout_p: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean (N, G), rstd (N, G). seeds: (N,) int64. backend: "auto" or "triton", settled here, out of the compiler's
    sight."""
    options = Options(num_groups, eps, silu, dropout_p)
    if not takes_triton(backend, x):
        return reference.forward(x, scale, shift, bias, seeds, options)
    from soda_kernels.group_norm_modulate import launch

    kernel, outputs = launch.forward(x, scale, shift, bias, seeds, options)
    kernel.run()
    return outputs


@torch.library.custom_op("soda_kernels::group_norm_modulate_backward", mutates_args=())
def backward_op(
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    num_groups: int,
    eps: float,
    silu: bool,
    dropout_p: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx; dscale, dshift and dbias (N, C), the last empty without a bias."""
    options = Options(num_groups, eps, silu, dropout_p)
    if not takes_triton(backend, x):
        dx, dscale, dshift, dbias = reference.backward(dy, x, scale, shift, bias, seeds, mean, rstd, options)
        return dx, dscale, dshift, dbias if bias is not None else dscale.new_empty(0)
    from soda_kernels.group_norm_modulate import launch

    kernel, (dx, dscale, dshift, summed) = launch.backward(dy, x, scale, shift, bias, seeds, mean, rstd, options)
    kernel.run()
    return dx, dscale, dshift, dscale.new_empty(0) if summed is None else summed


@forward_op.register_fake
def _(x, scale, shift, bias, seeds, num_groups, eps, silu, dropout_p, backend):  # type: ignore[no-untyped-def]
    statistics = x.new_empty(len(x), num_groups, dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(reference.dense(x)), statistics, torch.empty_like(statistics)


@backward_op.register_fake
def _(dy, x, scale, shift, bias, seeds, mean, rstd, num_groups, eps, silu, dropout_p, backend):  # type: ignore[no-untyped-def]
    dscale = x.new_empty(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
    dbias = dscale.new_empty(0) if bias is None else torch.empty_like(dscale)
    return torch.empty_like(reference.dense(x)), dscale, torch.empty_like(dscale), dbias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, scale, shift, bias, seeds, *ctx.options = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, scale, shift, bias, seeds, mean, rstd)


def _backward(ctx: Any, dy: Tensor, _dmean: Tensor, _drstd: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing recomputes on asking
    _, scale, shift, bias, *_ = saved
    dx, dscale, dshift, dbias = backward_op(dy, *saved, *ctx.options)
    bias_gradient = None if bias is None else dbias.sum(dim=0).to(bias.dtype)
    return dx, dscale.to(scale.dtype), dshift.to(shift.dtype), bias_gradient, *[None] * 6


forward_op.register_autograd(_backward, setup_context=_setup_context)
