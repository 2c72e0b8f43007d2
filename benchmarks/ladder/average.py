"""The moving average as the reference implementation keeps it: ema-pytorch, tensor by tensor."""

from ema_pytorch import EMA
from torch import nn

from soda_fast.parallel import reshard


class LoopAverage:
    """ema-pytorch with the reference's settings.

    Args:
        online: the trained model.
        model: of the same structure and layout; becomes the average.
        counters_on_device: as the reference has them, which makes the host wait for the device twice in an update.

    Attributes:
        steps: updates made.
    """

    def __init__(self, online: nn.Module, model: nn.Module, beta: float, counters_on_device: bool) -> None:
        self.online, self.model, self.steps = online, model.requires_grad_(False).eval(), 0
        self._ema = EMA(
            online, ema_model=model, beta=beta, update_every=1, update_after_step=0, include_online_model=False
        )
        if counters_on_device:
            device = next(online.parameters()).device
            self._ema.initted, self._ema.step = self._ema.initted.to(device), self._ema.step.to(device)

    def update(self) -> None:
        """Take in the online weights."""
        reshard(self.online)
        reshard(self.model)
        self._ema.update()
        self.steps += 1
