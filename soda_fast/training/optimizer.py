"""AdamW for the two networks; the learning rate is a pure function of images seen."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soda_fast.config.schema import TrainConfig
from soda_fast.model import SODA
from soda_fast.training.finite import FiniteGuard


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


def clip_and_step(
    model: nn.Module, optimizer: torch.optim.AdamW, max_norm: float, guard: FiniteGuard, images_seen: int
) -> tuple[Tensor, Tensor]:
    """Clip the gradient to `max_norm`, then step, unless the guard forbids it; then nothing changes.

    The optimizer itself skips such a step on the device (`found_inf`), without the host waiting for the norm.

    Args:
        images_seen: before this step.

    Returns:
        The gradient's L2 norm before clipping, 0-d float32, and whether the step was skipped, 0-d bool.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm, foreach=True)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    skipped = guard.judge(norm, images_seen)
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped
