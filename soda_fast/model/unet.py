"""The decoder: the DDPM UNet (Ho et al., arXiv 2006.11239), steered by the timestep and by z."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soda_fast.model.blocks import Middle, Resample, Stage
from soda_fast.model.layers import Conv2d, GroupNorm
from soda_fast.model.rays import with_rays
from soda_fast.sections import assign_sections, section_bounds


class TimeEmbedding(nn.Module):
    """Sinusoids of the time, then two linear layers: (N,) -> (N, 4 * channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.lin1 = nn.Linear(channels, 4 * channels)
        self.lin2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, time: Tensor) -> Tensor:
        """time: (N,) float32. Frequencies 10000 ** (-i / (half - 1)); [sin, cos]; computed in float32."""
        half = self.channels // 2
        rate = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000) / (half - 1)))
        angle = time[:, None] * rate[None, :]
        sinusoids = torch.cat((angle.sin(), angle.cos()), dim=1).to(self.lin1.weight.dtype)
        return self.lin2(F.silu(self.lin1(sinusoids)))


class UNet(nn.Module):
    """Predicts the noise in x_t.

    Args:
        z_dim: width of z.
        channels: at full resolution; a multiple of 32.
        multipliers: channels at each resolution as multiples of `channels`; each resolution is half of the one before.
        attention: whether the blocks at each resolution attend.
        head_channels: of an attention head; None: one head.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        dropout: probability, inside residual blocks.
        resample: "conv" or "residual".
        modulation: "shared": all of z steers every block; "resolution" or "block": a section of it, see
            `soda_fast.sections`.
        rescale: divide the sum of each block and its shortcut by sqrt(2).
        ray_channels: of the camera's rays, beside the image's three.
    """

    def __init__(
        self,
        z_dim: int = 128,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        attention: Sequence[bool] = (False, True, False, False),
        head_channels: int | None = None,
        blocks: int = 2,
        dropout: float = 0.1,
        resample: str = "conv",
        modulation: str = "shared",
        rescale: bool = False,
        ray_channels: int = 0,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        last = len(widths) - 1
        self.sections = assign_sections(modulation, len(widths), blocks)
        bounds = section_bounds(z_dim, self.sections.count)
        self.section_widths = [end - start for start, end in pairwise(bounds)]

        def common(section: int) -> tuple[int, int, float]:
            return 4 * channels, self.section_widths[section], dropout

        residual = resample == "residual"
        self.ray_channels = ray_channels
        self.conv_in = Conv2d(3 + ray_channels, channels, 3, padding=1)
        self.time_emb = TimeEmbedding(channels)

        down = iter(self.sections.down)
        self.down = nn.ModuleList()
        current, skips = channels, [channels]
        for level, (width, attend) in enumerate(zip(widths, attention, strict=True)):
            for _ in range(blocks):
                self.down.append(Stage(current, width, *common(next(down)), attend, head_channels, rescale))
                current = width
                skips.append(current)
            if level < last:
                self.down.append(Resample("down", current, *common(next(down)), residual, rescale))
                skips.append(current)

        self.middle = Middle(current, *common(self.sections.middle), head_channels, rescale)

        up = iter(self.sections.up)
        self.up = nn.ModuleList()
        for level in range(last, -1, -1):
            for _ in range(blocks + 1):
                joined = current + skips.pop()
                attend, current = attention[level], widths[level]
                self.up.append(Stage(joined, current, *common(next(up)), attend, head_channels, rescale))
            if level > 0:
                self.up.append(Resample("up", current, *common(next(up)), residual, rescale))

        self.norm_out = GroupNorm(8, channels)
        self.conv_out = Conv2d(channels, 3, 3, padding=1)

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated parts, in the order in which they run."""
        return [*self.down, self.middle, *self.up]

    def forward(
        self, x_t: Tensor, time: Tensor, z: Tensor, dropout_seed: Tensor | None = None, rays: Tensor | None = None
    ) -> Tensor:
        """x_t (N, 3, T, T), time (N,) float32, z (N, z_dim) -> noise (N, 3, T, T).

        dropout_seed: (N,) or 0-d int64; needed in training if dropout > 0. rays: (N, ray_channels, T, T), from
        `ray_features`; None: the camera is not known.
        """
        embedded = self.time_emb(time)
        seeds = self._block_seeds(dropout_seed)
        parts = z.split(self.section_widths, dim=1)
        x = self.conv_in(with_rays(x_t, rays, self.ray_channels))
        skips = [x]
        for block, section in zip(self.down, self.sections.down, strict=True):
            x = block(x, embedded, parts[section], next(seeds))
            skips.append(x)
        x = self.middle(x, embedded, parts[self.sections.middle], next(seeds))
        for block, section in zip(self.up, self.sections.up, strict=True):
            if isinstance(block, Stage):
                x = block(x, embedded, parts[section], next(seeds), skips.pop())
            else:
                x = block(x, embedded, parts[section], next(seeds))
        return self.conv_out(self.norm_out(x))

    def _block_seeds(self, dropout_seed: Tensor | None) -> Iterator[Tensor | None]:
        """One seed a block, each different, so that blocks of one shape do not drop the same elements."""
        if dropout_seed is None:
            yield from repeat(None, len(self.blocks))
            return
        # All in one addition: on a GPU each would be a kernel of its own.
        steps = torch.arange(len(self.blocks), device=dropout_seed.device) << 33
        yield from (steps.view(-1, *(1 for _ in dropout_seed.shape)) + dropout_seed).unbind()
