"""The normalisations that a configuration's decoder runs: what the kernels are tested, compiled and timed on."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from soda_fast.build import build_model
from soda_fast.config import Config
from soda_kernels import group_norm_modulate, join_norm_modulate

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, order=True)
class NormShape:
    """One use of the operation.

    size: height and width; biased: with a convolution's bias; skip: how many of the channels come from a skip
    connection; modulated: scale and shift differ from sample to sample.
    """

    size: int
    channels: int
    num_groups: int
    activation: str
    dropout_p: float
    biased: bool
    skip: int = 0
    modulated: bool = False

    @property
    def passes(self) -> dict[str, int]:
        """How often each direction must move a tensor of this shape, at the least: x in, y out; x and dy in, dx out;
        with a skip connection also joined out, and its gradient in."""
        return {"forward": 3, "backward": 4} if self.skip else {"forward": 2, "backward": 3}

    @property
    def moved_values(self) -> int:
        """Numbers that both directions must move for one image, at the least."""
        return sum(self.passes.values()) * self.channels * self.size**2

    def __str__(self) -> str:
        extras = [self.activation] if self.activation != "silu" else []
        extras += ["dropout"] if self.dropout_p else []
        extras += ["bias"] if self.biased else []
        extras += [f"skip={self.skip}"] if self.skip else []
        return f"{self.size}x{self.size} C={self.channels} G={self.num_groups}{''.join(' ' + word for word in extras)}"


class _Recorder(TorchDispatchMode):
    """Notes every call of the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[NormShape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.soda_kernels.group_norm_modulate.default:
            x, skip, scale, _, bias, _, num_groups, _, silu, dropout_p, _ = args
            joined = 0 if skip is None else skip.shape[1]
            activation, channels = "silu" if silu else "none", x.shape[1] + joined
            shape = NormShape(
                x.shape[-1], channels, num_groups, activation, dropout_p, bias is not None, joined, scale.stride(0) != 0
            )
            self.found[shape] += 1
        return func(*args, **(kwargs or {}))


def decoder_norms(config: Config) -> Counter[NormShape]:
    """How often the decoder runs each shape in one training step. Found by running it on shapes alone."""
    with torch.device("meta"):
        model = build_model(config).train()
        target = torch.empty(2, 3, config.data.target_size, config.data.target_size)
        z, seed = torch.empty(2, config.model.encoder.z_dim), torch.zeros((), dtype=torch.int64)
        with _Recorder() as recorder:
            model.denoise(target, torch.ones(2, dtype=torch.int64), z, torch.zeros(2), seed)
    return recorder.found


def make_inputs(
    shape: NormShape,
    batch: int,
    dtype: torch.dtype,
    channels_last: bool,
    device: str | torch.device,
    seed: int = 0,
) -> dict[str, Any]:
    """Random arguments for `apply`, and under "gradients" one for each of its outputs."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device)

    layout = torch.channels_last if channels_last else torch.contiguous_format
    image = (batch, shape.channels, shape.size, shape.size)

    vector = (batch, shape.channels) if shape.modulated else (shape.channels,)

    def gradient() -> Tensor:
        return normal(*image).to(dtype).contiguous(memory_format=layout)

    x, skip = (1 + 2 * normal(*image)).to(dtype).split((shape.channels - shape.skip, shape.skip), dim=1)
    inputs = {
        "x": x.contiguous(memory_format=layout),
        "scale": 1 + 0.5 * normal(*vector),
        "shift": 0.5 * normal(*vector),
        "num_groups": shape.num_groups,
        "activation": shape.activation,
        "gradients": [gradient()],
    }
    if shape.skip:
        return inputs | {"skip": skip.contiguous(memory_format=layout), "gradients": [gradient(), gradient()]}
    seeds = torch.arange(batch, device=device) + (seed << 32)
    bias = normal(shape.channels) if shape.biased else None
    return inputs | {"bias": bias, "dropout_p": shape.dropout_p, "dropout_seed": seeds}


def apply(backend: str, **inputs: Any) -> tuple[Tensor, ...]:
    """The operation on `make_inputs` without gradients: y, or y and joined. scale and shift may be one row for all."""
    for name in ("scale", "shift"):
        inputs[name] = inputs[name].expand(inputs["x"].shape[0], -1)
    if "skip" in inputs:
        return join_norm_modulate(**inputs, backend=backend)
    return (group_norm_modulate(**inputs, backend=backend),)
