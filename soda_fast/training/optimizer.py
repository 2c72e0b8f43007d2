"""AdamW for the two networks; the learning rate is a pure function of images seen."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soda_fast.config.schema import TrainConfig
from soda_fast.model import SODA


def build_optimizer(model: SODA, train: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (arXiv 1711.05101) with a group for the encoder and one for the decoder, in this order."""
    groups = [
        {"params": list(model.encoder.parameters()), "lr": train.encoder_lr},
        {"params": list(model.decoder.parameters()), "lr": train.decoder_lr},
    ]
    return torch.optim.AdamW(groups, betas=train.betas, weight_decay=train.weight_decay, fused=True)


def learning_rate(base: float, images_seen: int, global_batch_images: int, warmup_images: int) -> float:
    """The rate of the step that starts at images_seen: linear from 0 over the warm-up, then constant.

    The step's own images count, so that the first step moves.
    """
    return base * min(1.0, (images_seen + global_batch_images) / max(warmup_images, 1))


def clip_and_step(model: nn.Module, optimizer: torch.optim.AdamW, max_norm: float) -> Tensor:
    """Clip the gradient to `max_norm`, then step; a gradient that is not finite changes nothing.

    The optimizer itself skips such a step on the device (`found_inf`), without the host waiting for the norm.
    `FiniteGuard` stops the run when the host next waits anyway.

    Returns:
        The gradient's L2 norm before clipping: 0-d float32.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=True)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


class NonFiniteError(ArithmeticError):
    """The gradient of a step was NaN or infinite."""


class FiniteGuard:
    """Remembers, on the device, the first step whose gradient was not finite."""

    def __init__(self, device: torch.device) -> None:
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def watch(self, grad_norm: Tensor, step: int) -> None:
        """Note the gradient norm (0-d) of `step`; does not wait for the device."""
        bad = ~torch.isfinite(grad_norm) & (self.first_bad < 0)
        self.first_bad = torch.where(bad, step, self.first_bad)

    def check(self, first_bad: int | None = None) -> None:
        """Stop a training that diverged. Waits for the device, unless `first_bad` has been read already.

        Raises:
            NonFiniteError: a step's gradient was not finite. The weights are those from before it.
        """
        step = int(self.first_bad.item()) if first_bad is None else first_bad
        if step >= 0:
            raise NonFiniteError(
                f"the loss or its gradient became NaN or infinite in step {step} (counted from 0), which did not "
                "change the weights; lower train.encoder_lr and train.decoder_lr, or lengthen the warm-up, and start "
                "again from the last checkpoint"
            )
