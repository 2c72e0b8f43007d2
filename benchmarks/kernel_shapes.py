"""The normalisations that a configuration's decoder runs: what the kernels are tested, compiled and timed on."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from soda_fast.build import build_model
from soda_fast.config import Config
from soda_fast.model.layers import GroupNorm


@dataclass(frozen=True, order=True)
class NormShape:
    """One use of the operation. height = width; modulated: scale and shift differ from sample to sample."""

    size: int
    channels: int
    num_groups: int
    activation: str
    dropout_p: float
    biased: bool

    def __str__(self) -> str:
        extras = [self.activation] if self.activation != "silu" else []
        extras += ["dropout"] if self.dropout_p else []
        extras += ["bias"] if self.biased else []
        return f"{self.size}x{self.size} C={self.channels} G={self.num_groups}{''.join(' ' + word for word in extras)}"


def decoder_norms(config: Config) -> Counter[NormShape]:
    """How often the decoder runs each shape in one training step. Found by running it on shapes alone."""
    found: Counter[NormShape] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(module, GroupNorm)
        x, _, _, activation, dropout_p, *_ = inputs + (None, None, "silu", 0.0)[len(inputs) - 1 :]
        activation, dropout_p = kwargs.get("activation", activation), kwargs.get("dropout_p", dropout_p)
        biased = kwargs.get("conv_bias") is not None
        found[NormShape(x.shape[-1], x.shape[1], module.num_groups, activation, dropout_p, biased)] += 1

    with torch.device("meta"):
        model = build_model(config).train()
        for module in model.decoder.modules():
            if isinstance(module, GroupNorm):
                module.register_forward_pre_hook(note, with_kwargs=True)
        target = torch.empty(2, 3, config.data.target_size, config.data.target_size)
        z, seed = torch.empty(2, config.model.encoder.z_dim), torch.zeros((), dtype=torch.int64)
        model.denoise(target, torch.ones(2, dtype=torch.int64), z, torch.zeros(2), seed)
    return found


def make_inputs(
    shape: NormShape,
    batch: int,
    dtype: torch.dtype,
    channels_last: bool,
    device: str | torch.device,
    seed: int = 0,
) -> dict[str, Any]:
    """Random arguments of `group_norm_modulate` for a shape, and `dy`, a gradient of the output."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = (batch, shape.channels, shape.size, shape.size)
    x = (1 + 2 * normal(*image)).to(dtype).contiguous(memory_format=layout)
    return {
        "x": x,
        "scale": 1 + 0.5 * normal(batch, shape.channels),
        "shift": 0.5 * normal(batch, shape.channels),
        "num_groups": shape.num_groups,
        "activation": shape.activation,
        "dropout_p": shape.dropout_p,
        "dropout_seed": torch.full((), 12345 + (7 << 32), dtype=torch.int64, device=device),
        "bias": normal(shape.channels) if shape.biased else None,
        "dy": normal(*image).to(dtype).contiguous(memory_format=layout),
    }
