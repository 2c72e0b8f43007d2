"""The operation in plain PyTorch: the meaning of the fused kernel, its judge, and what runs on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from soda_kernels.group_norm_modulate.dropout import keep_mask


def reference(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    num_groups: int,
    eps: float,
    activation: str,
    dropout_p: float,
    dropout_seed: Tensor | None,
) -> Tensor:
    """See `group_norm_modulate`. Statistics and arithmetic in float32, two passes for the variance: a mean far from
    zero costs no digits."""
    n, c, h, w = x.shape
    grouped = x.float().reshape(n, num_groups, (c // num_groups) * h * w)
    variance, mean = torch.var_mean(grouped, dim=2, correction=0, keepdim=True)
    normalized = ((grouped - mean) * torch.rsqrt(variance + eps)).view(n, c, h, w)
    y = torch.addcmul(shift.float()[:, :, None, None], normalized, scale.float()[:, :, None, None])
    if activation == "silu":
        y = F.silu(y)
    if dropout_p > 0:
        assert dropout_seed is not None, "checked by the operator"
        y = torch.where(keep_mask(dropout_seed, y.shape, dropout_p), y / (1 - dropout_p), 0.0)
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return y.to(x.dtype).contiguous(memory_format=layout)
