"""From tensors to a launch of the Triton kernels. Everything that a launch is made of can be had without a device."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.dropout import keep_threshold
from soda_kernels.group_norm_modulate.reference import dense
from soda_kernels.group_norm_modulate.tiling import BUDGETS, Tiling, choose_tiling
from soda_kernels.group_norm_modulate.triton_backward import backward_looped, backward_whole
from soda_kernels.group_norm_modulate.triton_forward import forward_looped, forward_whole

# Kernels that spill under the register limit of their tiling: compiled without it from their second launch on.
_SPILLING: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class Launch:
    """A kernel with all its arguments. An absent tensor is None, which a kernel sees as a constant."""

    kernel: Any
    programs: int
    tensors: dict[str, Tensor | None]
    integers: dict[str, int]
    constants: dict[str, Any]
    warps: int
    registers: int

    def options(self, limited: bool = True) -> dict[str, int]:
        """For the compiler; limited: with the register limit, which is a wish: see `run`."""
        options = {"num_warps": self.warps, "num_stages": 1}
        return options | {"maxnreg": self.registers} if limited else options

    def run(self) -> None:
        """Start the kernel on x's device; nothing to do for an empty batch."""
        x = self.tensors["x_ptr"]
        assert x is not None
        if self.programs == 0:
            return
        kind = (self.kernel.__name__, x.dtype, x.device, *self.constants.values())
        limited = kind not in _SPILLING
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            compiled = self.kernel[(self.programs,)](
                **self.tensors, **self.integers, **self.constants, **self.options(limited)
            )
        if limited and getattr(compiled, "n_spills", None):
            _SPILLING.add(kind)


def forward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    options: Options,
    tiling: Tiling | None = None,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor]]:
    """The forward launch and the tensors that it fills: y, mean, rstd."""
    x = dense(x)
    y = torch.empty_like(x)
    mean = torch.empty(len(x), options.num_groups, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    tiling = tiling or _tiling("forward", x, options)
    tensors = {"x_ptr": x, **_vectors(scale, shift, bias, seeds, options), "y_ptr": y}
    tensors |= {"mean_ptr": mean, "rstd_ptr": rstd}
    constants = {"EPS": options.eps} | _constants(x, options, tiling)
    kernel = forward_whole if tiling.whole else forward_looped
    return _launch(kernel, tensors, constants, options, tiling), (y, mean, rstd)


def backward(
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    options: Options,
    tiling: Tiling | None = None,
) -> tuple[Launch, tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """The backward launch and the tensors that it fills: dx; dscale, dshift, dbias (N, C) float32."""
    x = dense(x)
    # dy comes as autograd has it: expanded, or in the other layout.
    dy = dy.contiguous(memory_format=torch.channels_last if _channels_last(x) else torch.contiguous_format)
    dx = torch.empty_like(x)
    dscale = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    dshift = torch.empty_like(dscale)
    dbias = None if bias is None else torch.empty_like(dscale)
    tiling = tiling or _tiling("backward", x, options)
    tensors = {"dy_ptr": dy, "x_ptr": x, **_vectors(scale, shift, bias, seeds, options)}
    tensors |= {"mean_ptr": mean, "rstd_ptr": rstd}
    tensors |= {"dx_ptr": dx, "dscale_ptr": dscale, "dshift_ptr": dshift, "dbias_ptr": dbias}
    kernel = backward_whole if tiling.whole else backward_looped
    return _launch(kernel, tensors, _constants(x, options, tiling), options, tiling), (dx, dscale, dshift, dbias)


def _launch(
    kernel: Any, tensors: dict[str, Tensor | None], constants: dict[str, Any], options: Options, tiling: Tiling
) -> Launch:
    x, scale, shift = (tensors[name] for name in ("x_ptr", "scale_ptr", "shift_ptr"))
    assert x is not None
    assert scale is not None
    assert shift is not None
    integers = {
        "scale_stride": scale.stride(0),
        "shift_stride": shift.stride(0),
        "C": x.shape[1],
        "HW": x.shape[2] * x.shape[3],
        "G": options.num_groups,
    }
    programs = len(x) * (options.num_groups // tiling.groups)
    return Launch(kernel, programs, tensors, integers, constants, tiling.warps, tiling.registers)


def _tiling(direction: str, x: Tensor, options: Options) -> Tiling:
    _, channels, height, width = x.shape
    return choose_tiling(
        BUDGETS[direction],
        channels,
        height * width,
        options.num_groups,
        x.element_size(),
        _channels_last(x) or height * width == 1,
    )


def _channels_last(x: Tensor) -> bool:
    """Whether a dense x lies in channels_last order. Where both orders are one (C = 1 or H = W = 1), NCHW."""
    return not x.is_contiguous()


def _vectors(
    scale: Tensor, shift: Tensor, bias: Tensor | None, seeds: Tensor | None, options: Options
) -> dict[str, Tensor | None]:
    """The small inputs; a row of scale and shift is contiguous, rows may lie anywhere (or all in one place)."""
    return {
        "scale_ptr": scale if scale.stride(1) == 1 else scale.contiguous(),
        "shift_ptr": shift if shift.stride(1) == 1 else shift.contiguous(),
        "bias_ptr": None if bias is None else bias.contiguous(),
        "seed_ptr": seeds.contiguous() if options.dropout_p > 0 and seeds is not None else None,
    }


def _constants(x: Tensor, options: Options, tiling: Tiling) -> dict[str, Any]:
    _, channels, height, width = x.shape
    positions, group_channels = height * width, channels // options.num_groups
    even = (
        positions % tiling.block_positions == 0
        and group_channels % tiling.block_channels == 0
        and tiling.groups == tiling.block_groups
    )
    return {
        "SILU": options.silu,
        "DROPOUT": options.dropout_p > 0,
        "THRESHOLD": keep_threshold(options.dropout_p),
        "KEPT_SCALE": 1 / (1 - options.dropout_p),
        "CPG": group_channels,
        "GROUPS": tiling.groups,
        "BLOCK_G": tiling.block_groups,
        "BLOCK_C": tiling.block_channels,
        "BLOCK_P": tiling.block_positions,
        "CHANNELS_LAST": _channels_last(x),
        "EVEN": even,
        "WIDE": channels * positions >= 2**31,
        "FAST": not isinstance(forward_whole, InterpretedFunction),
    }
