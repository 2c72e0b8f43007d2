"""The UNet's blocks. Shapes: x (N, C, H, W); time (N, E), the embedded timestep; z (N, D), the section of z that steers
the block, zero where it is dropped. Where `rescale`, the sum of a block and its shortcut is divided by sqrt(2), so that
its variance stays that of its terms (SODA's blocks)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soda_fast.model.layers import Conv2d, GroupNorm

NORM_GROUPS = 32


def upsample(x: Tensor) -> Tensor:
    """Twice the resolution, nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def add_shortcut(x: Tensor, shortcut: Tensor, rescale: bool) -> Tensor:
    """x + shortcut, divided by sqrt(2) where `rescale`."""
    return (x + shortcut) * 0.5**0.5 if rescale else x + shortcut


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution; norm modulated by t and z, SiLU, dropout, convolution; plus the shortcut.

    The modulation is z_scale * (t_scale * norm(h) + t_shift) + z_shift, folded into one scale and one shift (SODA,
    section 3.1; the reference implementation's form, without `1 +`). With `resample` "up" or "down" the resolution
    changes between the first SiLU and the first convolution, and on the shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        z_dim: int,
        dropout: float,
        resample: str = "none",
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.resample, self.rescale = dropout, resample, rescale
        self.norm1 = GroupNorm(NORM_GROUPS, in_channels)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(NORM_GROUPS, out_channels)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.time_proj = nn.Linear(time_dim, 2 * out_channels)
        self.z_proj = nn.Linear(z_dim, 2 * out_channels)

    def modulation(self, time: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (N, C) float32 of the second normalisation's output."""
        t_scale, t_shift = self.time_proj(F.silu(time)).float().chunk(2, dim=1)
        z_scale, z_shift = self.z_proj(F.silu(z)).float().chunk(2, dim=1)
        return z_scale * t_scale, torch.addcmul(z_shift, z_scale, t_shift)

    def forward(
        self, x: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """-> (N, C_out, H', W'). dropout_seed: (N,) or 0-d int64, needed in training if dropout > 0.

        skip: more channels for x, from a skip connection.
        """
        if skip is None:
            h = self.norm1(x)
        else:
            h, x = self.norm1.join(x, skip)
        if self.resample == "up":
            h, x = upsample(h), upsample(x)
        elif self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv1(h, add_bias=False)
        modulation = self.modulation(time, z)
        dropout_p = self.dropout if self.training else 0.0
        # The normalisation reads h anyway and can add the bias on the way: a pass over memory less, two in backward.
        h = self.norm2(h, modulation, "silu", dropout_p, dropout_seed, conv_bias=self.conv1.bias)
        return add_shortcut(self.conv2(h), self.shortcut(x), self.rescale)


class Attention(nn.Module):
    """Self-attention over pixels, plus its input. head_channels None: one head."""

    def __init__(self, channels: int, head_channels: int | None, rescale: bool = False) -> None:
        super().__init__()
        self.head_channels, self.rescale = head_channels or channels, rescale
        self.norm = GroupNorm(NORM_GROUPS, channels)
        self.projection = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n, c, h, w = x.shape
        tokens = self.norm(x, activation="none").permute(0, 2, 3, 1).reshape(n, h * w, c)
        qkv = self.projection(tokens).view(n, h * w, c // self.head_channels, 3, self.head_channels)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)  # each (N, heads, H*W, head_channels)
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = self.output(attended.transpose(1, 2).reshape(n, h * w, c))
        return add_shortcut(x, tokens.view(n, h, w, c).permute(0, 3, 1, 2), self.rescale)


class Stage(nn.Module):
    """A residual block, followed by attention where asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_dim: int,
        z_dim: int,
        dropout: float,
        attention: bool,
        head_channels: int | None,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.res = ResidualBlock(in_channels, out_channels, time_dim, z_dim, dropout, rescale=rescale)
        self.attn = Attention(out_channels, head_channels, rescale) if attention else nn.Identity()

    def forward(
        self, x: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None, skip: Tensor | None = None
    ) -> Tensor:
        """-> (N, C_out, H, W). skip: as in `ResidualBlock`."""
        return self.attn(self.res(x, time, z, dropout_seed, skip))


class Middle(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(
        self,
        channels: int,
        time_dim: int,
        z_dim: int,
        dropout: float,
        head_channels: int | None,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.res1 = ResidualBlock(channels, channels, time_dim, z_dim, dropout, rescale=rescale)
        self.attn = Attention(channels, head_channels, rescale)
        self.res2 = ResidualBlock(channels, channels, time_dim, z_dim, dropout, rescale=rescale)

    def forward(self, x: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        """-> (N, C, H, W)."""
        x = self.attn(self.res1(x, time, z, dropout_seed))
        # One seed for each use of dropout: equal seeds would drop the same elements in both blocks.
        return self.res2(x, time, z, None if dropout_seed is None else dropout_seed + (1 << 32))


class Resample(nn.Module):
    """A change of resolution by a factor of 2: "down" or "up"; by a convolution, or inside a residual block."""

    def __init__(
        self,
        direction: str,
        channels: int,
        time_dim: int,
        z_dim: int,
        dropout: float,
        residual: bool,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.direction = direction
        if residual:
            self.op: nn.Module = ResidualBlock(channels, channels, time_dim, z_dim, dropout, direction, rescale)
        else:
            self.conv = Conv2d(channels, channels, 3, stride=2 if direction == "down" else 1, padding=1)
        self.residual = residual

    def forward(self, x: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H/2, W/2) or (N, C, 2H, 2W)."""
        if self.residual:
            return self.op(x, time, z, dropout_seed)
        return self.conv(upsample(x) if self.direction == "up" else x)
