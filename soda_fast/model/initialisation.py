"""Fresh weights as SODA describes them: Xavier for the encoder, truncated normal for the decoder.

The paper gives no deviation; here it is that of JAX's libraries, in which the paper was written: 1 / sqrt(inputs), cut
off at two deviations. Biases are 0 and normalisations 1 and 0. Each weight follows from the seed and its name alone, so
that any process can draw any of them.
"""

import zlib

import torch
from torch import Tensor, nn

from soda_fast.model.layers import Conv2d


def xavier_(network: nn.Module, seed: int, name: str) -> None:
    """Uniform in +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010), for all convolutions and linear layers.

    Args:
        network: changed in place; on the CPU.
        seed: of the run.
        name: of the network or layer in its model, without which equal layers would get equal weights.
    """
    for weight, generator in _weights(network, seed, name):
        nn.init.xavier_uniform_(weight, generator=generator)


def truncated_normal_(network: nn.Module, seed: int, name: str) -> None:
    """Normal of deviation 1 / sqrt(inputs), cut off at two deviations. Arguments as for `xavier_`."""
    for weight, generator in _weights(network, seed, name):
        deviation = weight[0].numel() ** -0.5
        nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)


def _weights(network: nn.Module, seed: int, name: str) -> list[tuple[Tensor, torch.Generator]]:
    """The weights (out, in, ...) of all convolutions and linear layers, each with its generator; biases become 0."""
    found = []
    for path, layer in network.named_modules():
        if isinstance(layer, Conv2d | nn.Linear):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            full_name = ".".join(part for part in (name, path) if part)
            key = zlib.crc32(f"{seed} {full_name}".encode())
            weight = layer.oihw if isinstance(layer, Conv2d) else layer.weight
            found.append((weight, torch.Generator().manual_seed(key)))
    return found
