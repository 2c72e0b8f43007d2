"""BatchNorm over the global batch: equal to one process that sees all images."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return functional.wait_tensor(functional.all_reduce(x, "sum", group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # The trainer averages gradients over processes, so the sum here is the whole gradient: no division.
        return functional.wait_tensor(functional.all_reduce(gradients[0].contiguous(), "sum", ctx.group)), None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics are those of all processes' images together; float32 inside.

    Unlike nn.SyncBatchNorm it runs on CPUs and compiles without a graph break. One all-reduce forward, one backward.
    Parameters, buffers and their names are nn.BatchNorm2d's.
    """

    group: dist.ProcessGroup | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), in the input's dtype and layout."""
        if not self.training:
            mean, var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        else:
            mean, var, count = self._global_statistics(input)
            self._update_running_statistics(mean.detach(), var.detach(), count.detach())
        scale = torch.rsqrt(var + self.eps) * self.weight.float()
        shift = self.bias.float() - mean * scale
        output = torch.addcmul(shift[:, None, None], input.float(), scale[:, None, None])
        return output.to(input.dtype)

    def _global_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and biased variance (C,) over all processes, and the 0-d number of values behind them.

        Moments are summed about the running mean, which limits the cancellation in E[d^2] - E[d]^2.
        """
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float32, device=x.device)
        if self.group is None or self.group.size() == 1:
            return mean, var, count[0]
        shift = cast(Tensor, self.running_mean).detach().clone()
        distance = mean - shift
        moments = torch.cat((distance * count, (var + distance.square()) * count, count))
        moments = _SumOverProcesses.apply(moments, self.group)
        total = moments[-1]
        distance, square = (moments[:-1] / total).chunk(2)
        return distance + shift, (square - distance.square()).clamp_min(0), total

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(var * (count / (count - 1).clamp_min(1)), momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)


def synchronise_batch_norm(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Make every BatchNorm2d below `model` see the images of all of `group`'s processes, in place."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = GlobalBatchNorm2d
            cast(GlobalBatchNorm2d, module).group = group
