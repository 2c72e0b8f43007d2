"""A frozen encoder as it is called again and again: in the precision that is asked for, compiled for one batch size."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soda_fast.config.schema import EvaluationConfig

Encode = Callable[[Tensor], Mapping[str, Tensor]]
Module = TypeVar("Module", bound=nn.Module)


def frozen(model: Module, device: torch.device) -> Module:
    """The model on the device, in eval mode and without gradients; on a GPU in channels_last, as its views are."""
    model = model.eval().requires_grad_(False).to(device)
    if device.type == "cuda":
        weights_to_channels_last(model)
    return model


def weights_to_channels_last(model: nn.Module) -> None:
    """Lay out the weights of PyTorch's convolutions as channels_last images are.

    Not `model.to(memory_format=...)`: it takes every tensor of four axes for NCHW, and so would lay out anew the
    weights of our own convolutions, which are stored in that order already (`soda_fast.model.layers.Conv2d`).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def as_configured(encode: Encode, evaluation: EvaluationConfig, device: torch.device) -> Encode:
    """The same features, (B, D) float32 by name, by the way that `encoder_precision` and `compile_encoder` name."""
    if evaluation.encoder_precision == "bf16":
        encode = _in_bf16(encode, device)
    return _compiled(encode) if evaluation.compile_encoder else encode


def _in_bf16(encode: Encode, device: torch.device) -> Encode:
    """Convolutions and products in bf16, as a bf16 training computes them."""

    def in_bf16(images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            features = encode(images)
        return {name: rows.float() for name, rows in features.items()}

    return in_bf16


def _compiled(encode: Encode) -> Encode:
    """Through torch.compile, which compiles anew for another number of images: a shorter batch is filled up."""
    compiled = torch.compile(encode, dynamic=False)
    most = 0

    def filled_up(images: Tensor) -> dict[str, Tensor]:
        nonlocal most
        count = len(images)
        most = max(most, count)
        if count < most:
            images = F.pad(images, (0, 0, 0, 0, 0, 0, 0, most - count))  # which keeps the layout
        return {name: rows[:count] for name, rows in compiled(images).items()}

    return filled_up
