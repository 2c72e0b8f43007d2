"""The moving average as the reference implementation keeps it: ema-pytorch, tensor by tensor."""

import torch
from ema_pytorch import EMA
from torch import nn

from benchmarks.ladder.shards import PlainView


class LoopAverage:
    """ema-pytorch with the reference's settings.

    Args:
        online: the trained model. Between its steps its parameters are as they are spread, not gathered.
        model: of the same structure and layout; becomes the average.
        counters_on_device: as the reference has them, which makes the host wait for the device twice in an update.

    Attributes:
        steps: updates made.
    """

    def __init__(self, online: nn.Module, model: nn.Module, beta: float, counters_on_device: bool) -> None:
        self.online, self.model, self.steps = online, model.requires_grad_(False).eval(), 0
        with torch.no_grad():
            self._ema = EMA(
                PlainView(online),
                ema_model=PlainView(model),
                beta=beta,
                update_every=1,
                update_after_step=0,
                include_online_model=False,
            )
        if counters_on_device:
            device = next(online.parameters()).device
            self._ema.initted, self._ema.step = self._ema.initted.to(device), self._ema.step.to(device)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the online weights."""
        self._ema.update()
        self.steps += 1
