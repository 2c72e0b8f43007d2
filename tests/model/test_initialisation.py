"""The paper's fresh weights: their distributions, and that each follows from the seed and its name."""

import pytest
import torch
from torch import nn

from soda_fast.model import ResNetEncoder, UNet
from soda_fast.model.initialisation import truncated_normal_, xavier_
from soda_fast.model.layers import Conv2d


def layers(network: nn.Module) -> dict[str, nn.Module]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Conv2d | nn.Linear)}


def test_the_encoder_is_uniform_within_glorots_bound() -> None:
    encoder = ResNetEncoder("small", z_dim=64, widths=(32, 64), depths=(1, 1))
    xavier_(encoder, 0, "encoder")
    for layer in layers(encoder).values():
        weight = layer.oihw if isinstance(layer, Conv2d) else layer.weight
        field = weight[0, 0].numel()
        bound = (6 / ((weight.shape[0] + weight.shape[1]) * field)) ** 0.5
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert torch.equal(encoder.fc.bias, torch.zeros(64))


def test_the_decoder_is_a_normal_cut_off_at_two_deviations() -> None:
    decoder = UNet(16, 32, (1, 2), (False, True), None, 1, 0.0)
    truncated_normal_(decoder, 0, "")
    # The variance that is left of a normal cut off at 2: 1 - 2 * 2 * pdf(2) / (2 cdf(2) - 1).
    left = (1 - 4 * 0.05399096651 / 0.95449973610) ** 0.5
    for name, layer in layers(decoder).items():
        deviation = layer.weight[0].numel() ** -0.5
        assert layer.weight.abs().max() <= 2 * deviation
        if layer.weight.numel() > 3000:
            assert layer.weight.std().item() == pytest.approx(left * deviation, rel=0.1), name
        assert layer.bias is None or not layer.bias.any()


def test_weights_follow_from_seed_and_name() -> None:
    first, second = UNet(16, 32, (1,), (False,), None, 2, 0.0), UNet(16, 32, (1,), (False,), None, 2, 0.0)
    truncated_normal_(first, 3, "")
    for name, layer in layers(second).items():
        truncated_normal_(layer, 3, name)
        assert torch.equal(layer.weight, layers(first)[name].weight)
    assert not torch.equal(first.down[0].res.conv2.weight, first.down[1].res.conv2.weight)  # type: ignore[union-attr]
    truncated_normal_(second, 4, "")
    assert not torch.equal(first.conv_in.weight, second.conv_in.weight)
