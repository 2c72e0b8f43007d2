"""What training changes, and where it stands: all that a checkpoint holds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soda_fast.parallel import reshard

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainState:
    """What training changes."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name; loading into them restores the state in place."""
        reshard(self.model)
        reshard(self.average)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for moment in _MOMENTS:
                tensors[f"optimizer.{moment}.{name}"] = self._moments(parameter)[moment]
        return tensors

    def set_steps(self, steps: int) -> None:
        """Tell AdamW's bias correction how many steps it has made."""
        for parameter in self.model.parameters():
            self._moments(parameter)["step"].fill_(steps)

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """AdamW's state of one parameter, made here if no step has made it yet."""
        state = self.optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
        return state


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    images_seen: images trained on. steps: steps made, which the moving average counts. skipped_steps: those of them
    whose gradient was not finite; AdamW counts the others.
    """

    images_seen: int
    steps: int
    skipped_steps: int = 0
