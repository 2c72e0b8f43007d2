"""Power-function averages of the weights in training, shard by shard, in float32, beside the usual average."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from soda_fast.parallel import local_shards
from soda_fast.training.power_profile import decay, exponent_of


class PowerAverages:
    """One average of a model's parameters and floating-point buffers for each relative length (see power_profile).

    Not ema-pytorch's KarrasEMA, which reads its count of steps from the device and takes parameters one by one.

    Args:
        online: the trained model, on its device, sharded or not.
        lengths: sigma_rel of each average, distinct. Of none: no memory, no time.
    """

    def __init__(self, online: nn.Module, lengths: Sequence[float]) -> None:
        # They stay, though FSDP puts gathered ones into the modules at times; where they lie may not.
        self._online = _averaged(online)
        self._exponents = {length: exponent_of(length) for length in lengths}
        self.by_length: Mapping[float, Mapping[str, Tensor]] = {
            length: {name: value.detach().clone() for name, value in self._online.items()} for length in lengths
        }
        """{sigma_rel: {name in the state dict: the average, laid out as in the model}}."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the online weights; call after each optimizer step. Reads nothing from the device.

        step: t, of steps made, this one included.
        """
        if not self.by_length:
            return
        online = local_shards(self._online.values())
        for length, average in self.by_length.items():
            weight = 1.0 - decay(step, self._exponents[length])
            torch._foreach_lerp_(local_shards(average.values()), online, weight)

    def tensors(self) -> dict[str, Tensor]:
        """All averages, by their names in a checkpoint; loading into them restores them in place."""
        return {
            f"{checkpoint_prefix(length)}{name}": value
            for length, average in self.by_length.items()
            for name, value in average.items()
        }


def checkpoint_prefix(length: float) -> str:
    """What the names of an average's tensors in a checkpoint begin with: "ema-0.05." """
    return f"ema-{length!r}."


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    buffers = {name: value for name, value in model.named_buffers() if value.is_floating_point()}
    return {**dict(model.named_parameters()), **buffers}
