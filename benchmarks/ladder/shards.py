"""Plain tensors for an optimizer and an average that go from tensor to tensor, where FSDP2 has spread the model.

DTensor's dispatch of each operation takes the host longer than the operation: rungs that shard would look slower than
they are, and those that work on lists faster. The trainer's own optimizer and average work on plain parts too.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from soda_fast.parallel import local_shards
from soda_fast.training.optimizer import ShardedAdamW


class DefaultAdamW(ShardedAdamW):
    """PyTorch's default AdamW, for lack of `fused`, on this process's parts of the parameters."""

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """As the fused one's, but with the count of steps on the host, as PyTorch's default has it."""
        state = super().state_of(parameter)
        state["step"] = state["step"].cpu()
        return state


class PlainView(nn.Module):
    """A model as ema-pytorch sees it: by name, looked for each time, the parts of its tensors that this process has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:  # type: ignore[override]
        """(name, part)."""
        for name, parameter in self.model.named_parameters():
            (part,) = local_shards([parameter])
            yield name, part.detach()

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, Tensor]]:
        """(name, buffer), none of which is ever spread."""
        return self.model.named_buffers()
