"""The moving average of the weights, shard by shard, in float32."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from ema_pytorch import EMA
from torch import Tensor, nn

from soda_fast.parallel import gathering_modules, local_shards

Network = TypeVar("Network", bound=nn.Module)


class _Shards(nn.Module):
    """What ema-pytorch sees of a model: the shards of this process as plain tensors, in one list for `foreach`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Which tensors they are stays, though FSDP puts gathered ones into the modules at times; where they lie may
        # not.
        self._parameters_seen = tuple(model.named_parameters())
        self._buffers_seen = tuple(pair for pair in model.named_buffers() if pair[1].is_floating_point())

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:  # type: ignore[override]
        """(name, shard)."""
        names, parameters = zip(*self._parameters_seen, strict=True)
        # Detached, as ema-pytorch wants its own to be, and in place, which a shard, a view of its padding, cannot.
        return zip(names, (shard.detach() for shard in local_shards(parameters)), strict=True)

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer), of floating-point ones."""
        return iter(self._buffers_seen)


class WeightAverage(Generic[Network]):
    """ema-pytorch around two models that are sharded alike.

    The decay after k steps is min(beta, 1 - (1 + k) ** (-2/3)), ema-pytorch's warm-up, computed on the host; k follows
    from images seen.
    Floating-point buffers (BatchNorm's statistics) are averaged with the same decay. Both models have their memory
    already.

    Args:
        online: the trained model.
        average: a model of the same structure, sharded alike; it becomes the average.
        beta: decay of one step.
        steps: steps made already.
    """

    def __init__(self, online: Network, average: Network, beta: float, steps: int = 0) -> None:
        average.requires_grad_(False).eval()
        self.online, self.model, self.beta = online, average, beta
        self._gathering = gathering_modules(average)
        self._shards, self._averages = _Shards(online), _Shards(average)
        self._ema = EMA(
            self._shards,
            ema_model=self._averages,
            beta=beta,
            update_every=1,
            update_after_step=0,
            include_online_model=False,
            use_foreach=True,
        )
        self.set_steps(steps)
        # ema-pytorch pairs by order and passes over names that it does not know: a mismatch would go unnoticed.
        if _names(self._shards) != _names(self._averages):
            raise RuntimeError("the model and its average do not have the same tensors in the same order")

    def set_steps(self, steps: int) -> None:
        """Continue as after `steps` steps."""
        self.steps = steps

    @torch.no_grad()
    def update(self) -> None:
        """Take in the online weights; call after each optimizer step. Reads nothing from the device."""
        # An evaluation leaves the root's parameters gathered: the next one would see them as they were.
        for module in self._gathering:
            module.reshard()
        # Not its update(): that keeps the count in a tensor, and reads it.
        self._ema.update_moving_average(self._averages, self._shards, self._decay())
        self.steps += 1

    def _decay(self) -> float:
        """Of the coming step: 0 at the first, which copies."""
        return min(self.beta, 1.0 - (1.0 + self.steps) ** (-2 / 3))


def _names(shards: _Shards) -> list[str]:
    return [name for name, _ in (*shards.named_parameters(), *shards.named_buffers())]
