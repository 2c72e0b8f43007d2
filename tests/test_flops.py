"""FLOPs of the models as built: the design's table, and one block recounted by hand."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from soda_fast.config import load_config, run_length_images
from soda_fast.flops import count_flops
from soda_fast.model.blocks import Stage

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("name", "forward", "encoder", "both"), [("cifar10", 13.56, 1.11, 40.7), ("tiny_imagenet", 54.1, 0.30, 162)]
)
def test_the_designs_table(name: str, forward: float, encoder: float, both: float) -> None:
    cost = count_flops(load_config(CONFIGS / f"{name}.yaml"))
    assert (cost.encoder_forward + cost.decoder_forward) / 1e9 == pytest.approx(forward, rel=2e-3)
    assert cost.encoder_forward / 1e9 == pytest.approx(encoder, abs=5e-3)
    assert cost.forward_backward / 1e9 == pytest.approx(both, rel=5e-3)


def test_the_best_recipe_costs_as_much_as_the_references() -> None:
    """As its header says."""
    best, reference = (load_config(CONFIGS / f"{name}.yaml") for name in ("cifar10_best", "cifar10"))
    flops = [count_flops(config).forward_backward * run_length_images(config, 50_000) for config in (best, reference)]
    assert 0.99 < flops[0] / flops[1] <= 1


def test_targets_of_a_source_cost_the_decoder_alone() -> None:
    """An image then is one source and all of its targets; the encoder's share is its own whatever their number."""
    one, four = (
        count_flops(load_config(CONFIGS / "cifar10.yaml", [f"data.targets_per_source={targets}"])) for targets in (1, 4)
    )
    assert four.encoder_forward == one.encoder_forward
    assert four.decoder_forward == 4 * one.decoder_forward
    with_own_source = 4 * one.forward_backward - four.forward_backward
    # Of the first layer no gradient of the input is needed: a little less than three times the forward pass.
    assert with_own_source == pytest.approx(3 * 3 * one.encoder_forward, rel=0.02)


def test_a_residual_block_with_attention_by_hand() -> None:
    """2 FLOPs per multiply-add; norms, modulation, activations and sums are not counted."""
    n, c_in, c, size, time, z = 2, 32, 64, 8, 128, 16
    tokens = size * size
    with torch.device("meta"):
        stage = Stage(c_in, c, time, z, dropout=0.0, attention=True, head_channels=32)
        x, t, latent = torch.empty(n, c_in, size, size, requires_grad=True), torch.empty(n, time), torch.empty(n, z)
        with FlopCounterMode(display=False) as forward:
            y = stage(x, t, latent)
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
    convolutions = 2 * n * tokens * (9 * c_in * c + 9 * c * c + c_in * c)  # two of 3x3, the shortcut of 1x1
    modulation = 2 * n * (time + z) * 2 * c  # z and t to a scale and a shift for each channel
    projections = 2 * n * tokens * (c * 3 * c + c * c)  # query, key and value; output
    attention = 2 * 2 * n * tokens * tokens * c  # query by key, weights by value; heads share the channels
    assert forward.get_total_flops() == convolutions + modulation + projections + attention
    # Each product has two factors, each with a gradient, but t and z here need none. Nothing is counted that fused
    # attention computes again.
    assert backward.get_total_flops() == 2 * (convolutions + projections + attention) + modulation
