"""The networks as the reference implementation computes them: plain operations, one after the other.

The parameters are those of our model, by the same names; its golden outputs are the same (tests/test_golden.py), and a
test holds these blocks to ours. What differs is how they are computed: GroupNorm, two modulations as pointwise
operations each, SiLU and dropout apart; attention as two products with a softmax between; skips joined by `cat`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soda_fast.model import SODA
from soda_fast.model.blocks import Attention, ResidualBlock, upsample
from soda_fast.model.layers import Conv2d, GroupNorm


class PlainGroupNorm(nn.Module):
    """GroupNorm and, where asked for, SiLU, as PyTorch has them."""

    def __init__(self, norm: GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.weight, self.bias = norm.num_groups, norm.weight, norm.bias

    def forward(self, x: Tensor, activation: str = "silu") -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = F.group_norm(x, self.num_groups, self.weight, self.bias)
        return F.silu(x) if activation == "silu" else x


class PlainResidualBlock(nn.Module):
    """Norm, SiLU, convolution, norm, modulation by t, by z, SiLU, dropout, convolution; plus the shortcut."""

    norm1: nn.Module
    norm2: nn.Module
    conv1: nn.Module
    conv2: nn.Module
    time_proj: nn.Module
    z_proj: nn.Module
    shortcut: nn.Module

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.dropout, self.resample = block.dropout, block.resample
        _adopt_children(self, block)

    def forward(
        self, x: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """As `ResidualBlock`, but dropout draws from PyTorch's generator."""
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        h = self.norm1(x)
        if self.resample == "up":
            h, x = upsample(h), upsample(x)
        elif self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.norm2(self.conv1(h), activation="none")
        for projection, condition in ((self.time_proj, time), (self.z_proj, z)):
            scale, shift = projection(F.silu(condition)).chunk(2, dim=1)
            h = scale[:, :, None, None] * h + shift[:, :, None, None]
        h = F.dropout(F.silu(h), self.dropout, self.training)
        return self.conv2(h) + self.shortcut(x)


class PlainAttention(nn.Module):
    """Attention with its matrix of weights in memory."""

    norm: nn.Module
    projection: nn.Module
    output: nn.Module

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.head_channels = attention.head_channels
        _adopt_children(self, attention)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n, c, height, width = x.shape
        tokens = self.norm(x, activation="none").reshape(n, c, height * width).transpose(1, 2)
        heads = self.projection(tokens).view(n, height * width, c // self.head_channels, 3 * self.head_channels)
        query, key, value = heads.chunk(3, dim=-1)  # each (N, H*W, heads, head_channels)
        scale = self.head_channels**-0.25  # on both factors: fp16 would overflow in their product
        weights = torch.einsum("nqhc,nkhc->nqkh", query * scale, key * scale).softmax(dim=2)
        attended = torch.einsum("nqkh,nkhc->nqhc", weights, value)
        tokens = self.output(attended.reshape(n, height * width, c))
        return tokens.transpose(1, 2).reshape(x.shape) + x


def make_plain(model: SODA, oihw: bool) -> SODA:
    """Replace the parts of `model` by plain ones with the same parameters, in place.

    oihw: also store the convolutions' weights in PyTorch's usual order, which an NCHW convolution reads without a copy.
    """
    _replace_below(model, oihw)
    return model


def _adopt_children(plain: nn.Module, ours: nn.Module) -> None:
    for name, child in ours.named_children():
        plain.add_module(name, child)


def _replace_below(module: nn.Module, oihw: bool) -> None:
    for name, child in module.named_children():
        # Children first: the new parent takes over what it finds.
        _replace_below(child, oihw)
        plain = _plain(child, oihw)
        if plain is not child:
            setattr(module, name, plain)


def _plain(module: nn.Module, oihw: bool) -> nn.Module:
    if isinstance(module, ResidualBlock):
        return PlainResidualBlock(module)
    if isinstance(module, Attention):
        return PlainAttention(module)
    if isinstance(module, GroupNorm):
        return PlainGroupNorm(module)
    if isinstance(module, Conv2d) and oihw:
        return _usual_convolution(module)
    return module


@torch.no_grad()
def _usual_convolution(convolution: Conv2d) -> nn.Conv2d:
    out_channels, kernel, _, in_channels = convolution.weight.shape
    bias = convolution.bias is not None
    usual = nn.Conv2d(
        in_channels, out_channels, kernel, convolution.stride, convolution.padding, bias=bias, device="meta"
    )
    usual.weight = nn.Parameter(convolution.oihw.contiguous())
    if bias:
        usual.bias = convolution.bias
    return usual
