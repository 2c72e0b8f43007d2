"""The public operation and its choice of implementation."""

from torch import Tensor

from soda_kernels.group_norm_modulate.reference import reference


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
) -> Tensor:
    """y = dropout(activation(scale[n,c] * (x - mean[n,g]) / sqrt(var[n,g] + eps) + shift[n,c])).

    GroupNorm's gamma and beta and any further modulation are folded into scale and shift by the caller.

    Args:
        x: (N, C, H, W), any floating dtype, contiguous or channels_last.
        scale, shift: (N, C), any floating dtype.
        num_groups: divides C.
        eps: added to the variance.
        activation: "silu" or "none".
        dropout_p: probability that an element becomes 0; the others are divided by 1 - dropout_p.
        dropout_seed: 0-d int64 tensor, needed if dropout_p > 0; the mask is a function of it and the element's index.
        backend: "auto" or "pytorch".

    Returns:
        (N, C, H, W) in x's dtype and memory layout.

    Raises:
        ValueError: shapes or arguments that do not fit together.
    """
    _check(x, scale, shift, num_groups, activation, dropout_p, dropout_seed, backend)
    return reference(x, scale, shift, num_groups, eps, activation, dropout_p, dropout_seed)


def _check(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    activation: str,
    dropout_p: float,
    dropout_seed: Tensor | None,
    backend: str,
) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    if scale.shape != x.shape[:2] or shift.shape != x.shape[:2]:
        expected, found = tuple(x.shape[:2]), (tuple(scale.shape), tuple(shift.shape))
        raise ValueError(f"scale and shift must be (N, C) = {expected}, got {found[0]} and {found[1]}")
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"num_groups must divide the {x.shape[1]} channels, got {num_groups}")
    if activation not in ("silu", "none"):
        raise ValueError(f"activation must be 'silu' or 'none', got {activation!r}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")
    if dropout_p > 0 and (dropout_seed is None or dropout_seed.ndim):
        raise ValueError("dropout_p > 0 needs dropout_seed, a 0-d int64 tensor")
    if backend not in ("auto", "pytorch"):
        raise ValueError(f"backend must be 'auto' or 'pytorch', got {backend!r}")
