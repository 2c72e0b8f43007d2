"""AdamW for the two networks; the learning rate is a pure function of images seen."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from soda_fast.config.schema import TrainConfig
from soda_fast.model import SODA
from soda_fast.parallel import local_shards, sharding_group
from soda_fast.training.finite import FiniteGuard

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW(torch.optim.AdamW):
    """PyTorch's AdamW, handed this process's shards as plain tensors; its state is sharded like the parameters.

    found_inf: 0-d float32. Where it is 1 a step changes nothing, which the host need not know; of the fused one alone.
    """

    found_inf: Tensor | None = None

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The moments and the count of steps of one parameter, made here if no step has made them yet."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
        return state

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state_of(parameter) for parameter in parameters]
            first, second = (local_shards(state[moment] for state in states) for moment in MOMENTS)
            beta1, beta2 = group["betas"]
            adamw(
                local_shards(parameters),
                local_shards(parameter.grad for parameter in parameters),
                first,
                second,
                [],
                [state["step"] for state in states],
                fused=group["fused"],
                found_inf=self.found_inf,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def build_optimizer(model: SODA, train: TrainConfig) -> ShardedAdamW:
    """Fused AdamW (arXiv 1711.05101) with a group for the encoder and one for the decoder, in this order."""
    groups = [
        {"params": list(model.encoder.parameters()), "lr": train.encoder_lr},
        {"params": list(model.decoder.parameters()), "lr": train.decoder_lr},
    ]
    return ShardedAdamW(groups, betas=train.betas, weight_decay=train.weight_decay, fused=True)


def learning_rate(base: float, images_seen: int, global_batch_images: int, warmup_images: int) -> float:
    """The rate of the step that starts at images_seen: linear from 0 over the warm-up, then constant.

    The step's own images count, so that the first step moves.
    """
    return base * min(1.0, (images_seen + global_batch_images) / max(warmup_images, 1))


def clip_and_step(
    optimizer: ShardedAdamW, max_norm: float, guard: FiniteGuard, images_seen: int
) -> tuple[Tensor, Tensor]:
    """Clip the gradient to `max_norm`, then step, unless the guard forbids it; then nothing changes. A collective.

    The optimizer itself skips such a step on the device (`found_inf`), without the host waiting for the norm.

    Args:
        images_seen: before this step.

    Returns:
        The gradient's L2 norm before clipping, 0-d float32, and whether the step was skipped, 0-d bool.
    """
    norm = clip(optimizer.param_groups, max_norm)
    skipped = guard.judge(norm, images_seen)
    optimizer.found_inf = skipped.float()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, skipped


@torch.no_grad()
def clip(groups: list[dict[str, Any]], max_norm: float) -> Tensor:
    """As `nn.utils.clip_grad_norm_`, on the shards of an optimizer's groups; the norm of all processes' gradient, 0-d
    float32. A collective."""
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    shards, group = local_shards(gradients), sharding_group(gradients[0])
    norm = nn.utils.get_total_norm(shards, foreach=True)
    if group is not None:
        squares = norm.square()
        dist.all_reduce(squares, group=group)
        norm = squares.sqrt()
    torch._foreach_mul_(shards, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
