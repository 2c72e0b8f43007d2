"""What training changes, and where it stands: all that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from soda_fast.parallel import reshard
from soda_fast.training.optimizer import MOMENTS, ShardedAdamW


@dataclass(frozen=True)
class TrainState:
    """What training changes. further_averages: tensors of `PowerAverages`, by their names in a checkpoint."""

    model: nn.Module
    average: nn.Module
    optimizer: ShardedAdamW
    further_averages: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name; loading into them restores the state in place."""
        reshard(self.model)
        reshard(self.average)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= self.further_averages
        for name, parameter in self.model.named_parameters():
            for moment in MOMENTS:
                tensors[f"optimizer.{moment}.{name}"] = self.optimizer.state_of(parameter)[moment]
        return tensors

    def set_steps(self, steps: int) -> None:
        """Tell AdamW's bias correction how many steps it has made."""
        for parameter in self.model.parameters():
            self.optimizer.state_of(parameter)["step"].fill_(steps)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    images_seen: images trained on. steps: steps made, which the moving average counts. skipped_steps: those of them
    whose gradient was not finite; AdamW counts the others.
    """

    images_seen: int
    steps: int
    skipped_steps: int = 0
