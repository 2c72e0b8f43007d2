"""Layers that the encoder and the decoder share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soda_kernels import group_norm_modulate, join_norm_modulate


class Conv2d(nn.Module):
    """A 2-D convolution whose weight is stored (out, kernel, kernel, in), contiguous.

    FSDP2 shards contiguous tensors only, and a channels_last convolution wants this very order in memory: seen through
    `oihw`, the stored weight is channels_last without a copy. On contiguous inputs (CPUs) the small weight is copied
    into the usual order instead, because a channels_last weight would switch the whole convolution to that layout.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.empty(out_channels, kernel_size, kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    @property
    def oihw(self) -> Tensor:
        """The weight as (out, in, kernel, kernel): a view."""
        return self.weight.permute(0, 3, 1, 2)

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation of a convolution."""
        nn.init.kaiming_uniform_(self.oihw, a=5**0.5)
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, add_bias: bool = True) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W'), in x's memory layout. add_bias False leaves the bias to the caller."""
        weight = self.oihw
        if not x.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous()
        return F.conv2d(x, weight, self.bias if add_bias else None, self.stride, self.padding)

    def extra_repr(self) -> str:
        out_channels, kernel, _, in_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={kernel}, stride={self.stride}, padding={self.padding}"


class GroupNorm(nn.Module):
    """GroupNorm, modulation and SiLU as one operation.

    backend: implementation, see `soda_kernels.group_norm_modulate`.
    """

    backend = "auto"

    def __init__(self, num_groups: int, channels: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, Tensor] | None = None,
        activation: str = "silu",
        dropout_p: float = 0.0,
        dropout_seed: Tensor | None = None,
        conv_bias: Tensor | None = None,
    ) -> Tensor:
        """dropout(activation(scale * GroupNorm(x + conv_bias) + shift)).

        x: (N, C, H, W). modulation: scale and shift, (N, C) each; without, they are 1 and 0. dropout_seed: (N,) or 0-d
        int64. conv_bias: (C,), of the convolution before, where that has left it out.
        """
        gamma, beta = self._affine(x.shape[0])
        if modulation is None:
            scale, shift = gamma, beta
        else:
            scale, shift = modulation
            scale, shift = scale * gamma, torch.addcmul(shift, scale, beta)
        return group_norm_modulate(
            x,
            scale,
            shift,
            self.num_groups,
            activation=activation,
            dropout_p=dropout_p,
            dropout_seed=dropout_seed,
            backend=self.backend,
            bias=conv_bias,
        )

    def join(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """silu(GroupNorm(joined)) and joined = cat(x, skip), (N, C, H, W) both, in one pass over memory."""
        return join_norm_modulate(x, skip, *self._affine(x.shape[0]), self.num_groups, backend=self.backend)

    def _affine(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """The learnt scale and shift, float32, for each sample: (N, C)."""
        return self.weight.float().expand(num_samples, -1), self.bias.float().expand(num_samples, -1)
