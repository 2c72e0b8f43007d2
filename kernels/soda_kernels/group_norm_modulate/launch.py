"""From tensors to a launch of the Triton kernels. Everything that a launch is made of can be had without a device."""

import contextlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from soda_kernels.group_norm_modulate.arguments import Options
from soda_kernels.group_norm_modulate.dropout import keep_threshold
from soda_kernels.group_norm_modulate.layout import dense, dense_skip, empty_output, empty_parts, layout_of
from soda_kernels.group_norm_modulate.tiling import BUDGETS, Tiling, choose_tiling
from soda_kernels.group_norm_modulate.triton_backward import backward_looped, backward_whole
from soda_kernels.group_norm_modulate.triton_forward import forward_looped, forward_whole

# Kernels that spill under the register limit of their tiling: compiled without it from their second launch on. Not
# under deterministic algorithms: a process that goes on with another's work would begin with the other build.
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
        absent = tuple(name for name, tensor in self.tensors.items() if tensor is None)
        kind = (self.kernel.__name__, x.dtype, x.device, self.warps, self.registers, absent, *self.constants.values())
        limited = torch.are_deterministic_algorithms_enabled() or kind not in _SPILLING
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            compiled = self.kernel[(self.programs,)](
                **self.tensors, **self.integers, **self.constants, **self.options(limited)
            )
        if limited and getattr(compiled, "n_spills", None):
            _SPILLING.add(kind)


def forward(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    seeds: Tensor | None,
    options: Options,
    tiling: Tiling | None = None,
) -> tuple[Launch, tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """The forward launch and the tensors that it fills: y, joined, mean, rstd."""
    x = dense(x)
    skip = dense_skip(skip, x)
    y = empty_output(x, skip)
    joined = None if skip is None else torch.empty_like(y)
    mean = torch.empty(x.shape[0], options.num_groups, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    tensors = {"x_ptr": x, "skip_ptr": skip, **_vectors(scale, shift, bias, seeds, options)}
    tensors |= {"y_ptr": y, "joined_ptr": joined, "mean_ptr": mean, "rstd_ptr": rstd}
    tiling, constants = _plan("forward", y, options, tiling)
    kernel = forward_whole if tiling.whole else forward_looped
    skip_channels = 0 if skip is None else skip.shape[1]
    return _launch(kernel, y, tensors, constants, options, tiling, skip_channels), (y, joined, mean, rstd)


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
    tiling: Tiling | None = None,
) -> tuple[Launch, tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]]:
    """The backward launch and the tensors that it fills: dx, dskip; dscale, dshift, dbias (N, C) float32.

    x: all channels: what `forward` was given, or has joined. skip_channels: how many of them dskip takes.
    """
    x = dense(x)
    # Gradients come as autograd has them: expanded, or in the other layout.
    dy = dy.contiguous(memory_format=layout_of(x))
    djoined = None if djoined is None else djoined.contiguous(memory_format=layout_of(x))
    dx, dskip = empty_parts(x, skip_channels)
    dscale = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
    dshift = torch.empty_like(dscale)
    dbias = None if bias is None else torch.empty_like(dscale)
    tensors = {"dy_ptr": dy, "djoined_ptr": djoined, "x_ptr": x, **_vectors(scale, shift, bias, seeds, options)}
    tensors |= {"mean_ptr": mean, "rstd_ptr": rstd}
    tensors |= {"dx_ptr": dx, "dskip_ptr": dskip}
    tensors |= {"dscale_ptr": dscale, "dshift_ptr": dshift, "dbias_ptr": dbias}
    tiling, constants = _plan("backward", x, options, tiling)
    kernel = backward_whole if tiling.whole else backward_looped
    made = _launch(kernel, x, tensors, constants, options, tiling, skip_channels)
    return made, (dx, dskip, dscale, dshift, dbias)


def _launch(
    kernel: Any,
    y: Tensor,
    tensors: dict[str, Tensor | None],
    constants: dict[str, Any],
    options: Options,
    tiling: Tiling,
    skip_channels: int,
) -> Launch:
    """y: any tensor of the output's shape and layout."""
    scale, shift = tensors["scale_ptr"], tensors["shift_ptr"]
    assert scale is not None
    assert shift is not None
    num_samples, channels, height, width = y.shape
    integers = {
        "scale_stride": scale.stride(0),
        "shift_stride": shift.stride(0),
        "C": channels,
        "C_X": channels - skip_channels,
        "HW": height * width,
        "G": options.num_groups,
    }
    programs = num_samples * (options.num_groups // tiling.groups)
    return Launch(kernel, programs, tensors, integers, constants, tiling.warps, tiling.registers)


def _plan(direction: str, y: Tensor, options: Options, tiling: Tiling | None) -> tuple[Tiling, dict[str, Any]]:
    """The tiling, the rule's unless one is given, and the kernel's compile-time constants."""
    _, channels, height, width = y.shape
    channels_last = layout_of(y) is torch.channels_last
    return _plan_shape(direction, channels, height * width, y.element_size(), channels_last, options, tiling)


@lru_cache(maxsize=1024)
def _plan_shape(
    direction: str,
    channels: int,
    positions: int,
    itemsize: int,
    channels_last: bool,
    options: Options,
    tiling: Tiling | None,
) -> tuple[Tiling, dict[str, Any]]:
    if tiling is None:
        neighbours = channels_last or positions == 1
        budget = BUDGETS[direction]
        tiling = choose_tiling(budget, channels, positions, options.num_groups, itemsize, neighbours)
    group_channels = channels // options.num_groups
    constants = {
        "SILU": options.silu,
        "DROPOUT": options.dropout_p > 0,
        "THRESHOLD": keep_threshold(options.dropout_p),
        "KEPT_SCALE": 1 / (1 - options.dropout_p),
        "CPG": group_channels,
        "GROUPS": tiling.groups,
        "BLOCK_G": tiling.block_groups,
        "BLOCK_C": tiling.block_channels,
        "BLOCK_P": tiling.block_positions,
        "TILES": -(-positions // tiling.block_positions),
        "CHANNELS_LAST": channels_last,
        "EVEN": positions % tiling.block_positions == 0
        and group_channels % tiling.block_channels == 0
        and tiling.groups == tiling.block_groups,
        "WIDE": channels * positions >= 2**31,
        "FAST": not isinstance(forward_whole, InterpretedFunction),
    }
    if direction == "forward":
        constants["EPS"] = options.eps
    return tiling, constants


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
