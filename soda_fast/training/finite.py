"""Steps whose loss or gradient is NaN or infinite: found and undone on the device, read when the host waits anyway."""

import torch
from torch import Tensor, nn


class NonFiniteError(ArithmeticError):
    """A step's loss or gradient was NaN or infinite, and not to be skipped.

    images_seen: before that step. The weights are still those from before it.
    """

    def __init__(self, images_seen: int) -> None:
        super().__init__(f"the loss or its gradient became NaN or infinite after {images_seen:,} images")
        self.images_seen = images_seen

    def __reduce__(self) -> tuple[type["NonFiniteError"], tuple[int]]:
        """It travels to other processes whole."""
        return type(self), (self.images_seen,)


class FiniteGuard:
    """Decides, on the device, which steps count.

    Up to `allowed` steps that are not finite are skipped. The next one is the end: from it on no step counts, so that
    the weights are still its own when the host learns of it.

    Args:
        allowed: steps of the whole run that may be skipped.
        skipped: those skipped already.
    """

    def __init__(self, device: torch.device, allowed: int, skipped: int = 0) -> None:
        self.allowed, self.skipped = allowed, skipped
        self._skipped = torch.full((), skipped, dtype=torch.int64, device=device)
        self._fatal = torch.full((), -1, dtype=torch.int64, device=device)

    def judge(self, grad_norm: Tensor, images_seen: int) -> Tensor:
        """Whether a step must not change anything: 0-d bool; does not wait for the device.

        Args:
            grad_norm: 0-d, of the global batch.
            images_seen: before the step.
        """
        bad = ~torch.isfinite(grad_norm)
        first = bad & (self._fatal < 0)
        over = first & (self._skipped >= self.allowed)
        self._skipped = self._skipped + (first & ~over)
        self._fatal = torch.where(over, images_seen, self._fatal)
        return bad | (self._fatal >= 0)

    def check(self) -> int:
        """Wait for the device; how many steps were skipped since the last check.

        Raises:
            NonFiniteError: more steps than allowed were not finite.
        """
        return self.learn(*(int(tensor.item()) for tensor in self.tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """What `learn` takes, still on the device."""
        return self._skipped, self._fatal

    def learn(self, skipped: int, fatal: int) -> int:
        """`check` of `tensors` that have been read already."""
        if fatal >= 0:
            raise NonFiniteError(fatal)
        news, self.skipped = skipped - self.skipped, skipped
        return news


class BufferKeeper:
    """Takes back what a skipped step's forward pass did to a model's buffers (BatchNorm's running statistics)."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self.keep()

    def keep(self) -> None:
        """The buffers as they are now are good, as after loading."""
        self._kept = self._joined()

    def settle(self, skipped: Tensor) -> None:
        """Take the step's changes back if it was skipped (0-d bool); else they are good."""
        # Chosen, not multiplied by 0 and 1: the changes may be NaN.
        self._kept = torch.where(skipped, self._kept, self._joined())
        parts = self._kept.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, [p.view_as(b) for p, b in zip(parts, self._buffers, strict=True)])

    def _joined(self) -> Tensor:
        return torch.cat([buffer.detach().flatten() for buffer in self._buffers])
