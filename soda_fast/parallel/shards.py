"""Weights for a model that is spread over processes, from one that is not."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


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
