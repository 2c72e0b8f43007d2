"""The moving average of the weights, shard by shard, in float32."""

from typing import Generic, TypeVar

import torch
from ema_pytorch import EMA
from torch import nn

from soda_fast.parallel import reshard

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """ema-pytorch around two models that are sharded alike.

    The decay after k steps is min(beta, 1 - (1 + k) ** (-2/3)), ema-pytorch's warm-up, computed on the host; k follows
    from images seen.
    Floating-point buffers (BatchNorm's statistics) are averaged with the same decay.

    Args:
        online: the trained model.
        average: a model of the same structure, sharded alike; it becomes the average.
        beta: decay of one step.
        steps: steps made already.
    """

    def __init__(self, online: Network, average: Network, beta: float, steps: int = 0) -> None:
        average.requires_grad_(False).eval()
        self.online, self.model, self.beta = online, average, beta
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
        self.steps = steps

    @torch.no_grad()
    def update(self) -> None:
        """Take in the online weights; call after each optimizer step. Reads nothing from the device."""
        reshard(self.online)
        reshard(self.model)
        decay = self._decay()
        # Not its update(): that keeps the count in a tensor, and reads it.
        self._ema.update_moving_average(self.model, self.online, decay)
        pairs = zip(self.model.buffers(), self.online.buffers(), strict=True)
        average, online = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(average, online, 1.0 - decay)
        self.steps += 1

    def _decay(self) -> float:
        """Of the coming step: 0 at the first, which copies."""
        return min(self.beta, 1.0 - (1.0 + self.steps) ** (-2 / 3))
