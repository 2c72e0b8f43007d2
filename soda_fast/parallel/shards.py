"""The part of a spread model that this process holds, as plain tensors, and weights for it from a whole one."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def local_shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor, sharing its memory; call it anew for each use, under `no_grad`.

    DTensor's dispatch looks at each tensor of a list: several hundred parameters would cost the host tens of
    milliseconds in an operation that takes the device less than one. FSDP may give a parameter other memory in its
    first forward, so what was returned before it is not the parameter any more.
    """
    # Not `to_local`, which from torch 2.14 on makes a new view of each parameter.
    return [tensor._local_tensor if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def sharding_group(tensor: Tensor) -> dist.ProcessGroup | None:
    """The processes that share a tensor's elements among them; None if each of them has all, or there is but one."""
    if not isinstance(tensor, DTensor):
        return None
    sharded = [dim for dim, placement in enumerate(tensor.placements) if isinstance(placement, Shard)]
    if not sharded or tensor.device_mesh.size(sharded[0]) == 1:
        return None
    (dim,) = sharded
    return tensor.device_mesh.get_group(dim)


@torch.no_grad()
def copy_shards(model: nn.Module, source: nn.Module) -> None:
    """Copy the parameters and buffers of `source` into `model`, of each the part that this process holds.

    Args:
        model: sharded or not, on its device.
        source: of the same structure, whole, with the same values on every process.
    """
    whole = source.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(_laid_out_as(tensor, whole[name]))


def _laid_out_as(tensor: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return whole
    # No process is the source: each takes its part of what it has.
    return distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
