"""The public operations and their choice of implementation."""

from torch import Tensor

from soda_kernels.group_norm_modulate import reference
from soda_kernels.group_norm_modulate.arguments import Options, check
from soda_kernels.group_norm_modulate.dropout import sample_seeds
from soda_kernels.group_norm_modulate.registration import forward_op


def group_norm_modulate(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    dropout_p: float = 0.0,
    dropout_seed: Tensor | None = None,
    backend: str = "auto",
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """y = dropout(activation(scale[n,c] * (h - mean[n,g]) / sqrt(var[n,g] + eps) + shift[n,c])) with h = x + bias[c].

    GroupNorm's gamma and beta and any further modulation are folded into scale and shift by the caller. The bias is
    that of the convolution before: adding it here costs no memory traffic. Statistics and arithmetic are float32
    (float64 for float64 x): the sum of (h - mean)**2 over a group must stay below 3e38.

    Args:
        x: (N, C, H, W), any floating dtype and strides. Contiguous and channels_last are read as they are, others are
            copied first.
        scale, shift: (N, C), any floating dtype.
        num_groups: divides C.
        eps: added to the variance.
        activation: "silu" or "none".
        dropout_p: probability that an element becomes 0; the others are divided by 1 - dropout_p.
        dropout_seed: int64 tensor, needed if dropout_p > 0: (N,), one seed a sample; or 0-d, from which each
            sample's follows. The mask is a function of the sample's seed and the element's place in the sample, see
            dropout.py. A tensor, because torch.compile would compile anew for every Python integer.
        backend: "triton": the fused kernel, on CUDA devices of compute capability 8.0 or more, and on CPU tensors under
            TRITON_INTERPRET=1 (a debugger's speed). "pytorch": plain operations, for torch.compile to fuse as it can.
            "auto": "triton" where it runs on a GPU, else the same operator in plain PyTorch.
        bias: (C,), added to x.

    Returns:
        (N, C, H, W) in x's dtype and memory layout. Differentiable once, in reverse, in x, scale, shift
        and bias.

    Raises:
        ValueError: shapes or arguments that do not fit together; "triton" where it is not available.
    """
    y, _ = _apply(x, None, scale, shift, num_groups, eps, activation, dropout_p, dropout_seed, backend, bias)
    return y


def join_norm_modulate(
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A UNet's skip connection: joined = cat(x, skip) and y = group_norm_modulate(joined, ...), both in one pass.

    Where joined is used again, as by a residual shortcut, its gradient is added in the backward pass, and x and skip
    get theirs without a copy.

    Args:
        x: (N, C_x, H, W).
        skip: (N, C - C_x, H, W), x's dtype.
        scale, shift, num_groups, eps, activation, backend: as in `group_norm_modulate`.

    Returns:
        y and joined, (N, C, H, W), in x's dtype and memory layout.

    Raises:
        ValueError: as `group_norm_modulate`.
    """
    y, joined = _apply(x, skip, scale, shift, num_groups, eps, activation, 0.0, None, backend, None)
    assert joined is not None, "there is a skip"
    return y, joined


def _apply(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    eps: float,
    activation: str,
    dropout_p: float,
    dropout_seed: Tensor | None,
    backend: str,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    check(x, skip, scale, shift, num_groups, eps, activation, dropout_p, dropout_seed, bias, backend)
    seeds = sample_seeds(dropout_seed, x.shape[0]) if dropout_seed is not None and dropout_p > 0 else None
    silu = activation == "silu"
    if backend == "pytorch":
        options = Options(num_groups, eps, silu, dropout_p)
        y, joined, _, _ = reference.forward(x, skip, scale, shift, bias, seeds, options)
        return y, joined
    y, joined, _, _ = forward_op(x, skip, scale, shift, bias, seeds, num_groups, eps, silu, dropout_p, backend)
    return y, joined
