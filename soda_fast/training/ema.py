"""The moving average of the weights, shard by shard, in float32."""

from typing import Generic, TypeVar

import torch
from ema_pytorch import EMA
from torch import nn

from soda_fast.parallel import reshard

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """ema-pytorch around two models that are sharded alike.

    The decay after k steps is min(beta, 1 - (1 + k) ** (-2/3)), ema-pytorch's warm-up; k follows from images seen.
    Floating-point buffers (BatchNorm's statistics) are averaged with the same decay.

    Args:
        online: the trained model.
        average: a model of the same structure, sharded alike; it becomes the average.
        beta: decay of one step.
        steps: steps made already.
    """

    def __init__(self, online: Network, average: Network, beta: float, steps: int = 0) -> None:
        average.requires_grad_(False).eval()
        self.online, self.model = online, average
        # Buffers are left out, because one list cannot hold both sharded parameters and plain buffers.
        self._ema = EMA(
            online,
            ema_model=average,
            beta=beta,
            update_every=1,
            update_after_step=0,
            include_online_model=False,
            use_foreach=True,
            ignore_names={name for name, _ in online.named_buffers()},
        )
        self.set_steps(steps)
        # ema-pytorch pairs by order and passes over names that it does not know: a mismatch would go unnoticed.
        if [name for name, _ in online.named_parameters()] != [name for name, _ in average.named_parameters()]:
            raise RuntimeError("the model and its average do not have the same parameters in the same order")

    def set_steps(self, steps: int) -> None:
        """Continue as after `steps` steps."""
        self._ema.step.fill_(steps)
        self._ema.initted.fill_(steps > 0)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the online weights; call after each optimizer step."""
        reshard(self.online)
        reshard(self.model)
        first = not bool(self._ema.initted)
        self._ema.update()
        weight = 1.0 if first else 1.0 - self._ema.get_current_decay()
        pairs = zip(self.model.buffers(), self.online.buffers(), strict=True)
        average, online = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(average, online, weight)
