"""The arithmetic of the networks as built: of their convolutions, linear layers and attention."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from soda_fast.build import build_empty_model
from soda_fast.config import Config


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of convolutions, linear layers and attention for one image (2 per multiply-add).

    An image is one source view for the encoder, and all of its target views for the decoder.
    """

    encoder_forward: int
    decoder_forward: int
    forward_backward: int


def count_flops(config: Config) -> Cost:
    """Count on shapes alone: no memory, no arithmetic."""
    model = build_empty_model(config)
    with torch.device("meta"):
        source = torch.empty(1, 3, config.data.source_size, config.data.source_size)
        targets = config.data.targets_per_source
        target = torch.empty(targets, 3, config.data.target_size, config.data.target_size)
        t, drop_mask = torch.ones(targets, dtype=torch.int64), torch.zeros(targets)
        model.eval()
        with FlopCounterMode(display=False) as encoder:
            z = model.encode(source)
        with FlopCounterMode(display=False) as decoder:
            model.denoise(target, t, z.expand(targets, -1), drop_mask)
        with FlopCounterMode(display=False) as step:
            model(source, target, t, drop_mask).sum().backward()
    return Cost(encoder.get_total_flops(), decoder.get_total_flops(), step.get_total_flops())
