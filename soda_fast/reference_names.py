"""Parameter names of the public reference implementation (FutureXiang/soda), for its checkpoints.

Its encoder is an nn.Sequential of torchvision's ResNet, so that names are positions; a 7x7 stem has one module more,
the max pooling. Its convolution weights are (out, in, kernel, kernel).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from soda_fast.model import SODA
from soda_fast.model.layers import Conv2d

_ENCODER_3X3 = ("conv1", "bn1", None, "layer1", "layer2", "layer3", "layer4", None, None, "fc")
_ENCODER_7X7 = ("conv1", "bn1", None, None, "layer1", "layer2", "layer3", "layer4", None, None, "fc")


def reference_name(name: str, stem: str) -> str:
    """The reference's name of our parameter or buffer `name`, e.g. decoder.down.0.res.time_proj.weight."""
    network, rest = name.split(".", 1)
    if network == "encoder":
        module, rest = rest.split(".", 1)
        position = (_ENCODER_3X3 if stem == "3x3" else _ENCODER_7X7).index(module)
        return f"encoder.encoder.{position}.{rest}"
    rest = re.sub(r"^conv_in\.", "image_proj.", rest)
    rest = re.sub(r"^conv_out\.", "final.", rest)
    rest = re.sub(r"^norm_out\.", "norm.", rest)
    rest = re.sub(r"\.conv2\.", ".conv2.1.", rest)
    rest = re.sub(r"\.time_proj\.", ".time_emb.1.", rest)
    rest = re.sub(r"\.z_proj\.", ".z_emb.1.", rest)
    return f"decoder.{rest}"


def convolution_weights(model: torch.nn.Module) -> set[str]:
    """Names of the weights that we store as (out, kernel, kernel, in)."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv2d)}


def state_from_reference(model: SODA, state: Mapping[str, Tensor], stem: str) -> dict[str, Tensor]:
    """The reference's state dict in our names and layout.

    Args:
        model: the model that is to take it; gives names and shapes.
        state: the reference's, without prefixes.
        stem: the encoder's, "3x3" or "7x7".

    Raises:
        ValueError: missing, extra or misshaped keys, by their names in the reference.
    """
    convolutions = convolution_weights(model)
    ours: dict[str, Tensor] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.state_dict().items():
        theirs = reference_name(name, stem)
        shape = parameter.permute(0, 3, 1, 2).shape if name in convolutions else parameter.shape
        expected[theirs] = tuple(shape)
        if theirs in state:
            value = state[theirs]
            ours[name] = value.permute(0, 2, 3, 1).contiguous() if name in convolutions and value.ndim == 4 else value
    _check_keys(expected, {name: tuple(value.shape) for name, value in state.items()})
    return ours


def _check_keys(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not part of this model" for name in found if name not in expected]
    misshaped = [
        f"{name} has shape {found[name]} where the configuration asks for {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = misshaped + missing + extra
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"the checkpoint does not fit its configuration: {'; '.join(problems[:3])}{more}")
