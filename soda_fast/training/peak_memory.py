"""How much memory training took."""

import torch
import torch.distributed as dist

from soda_fast.parallel import Processes


def peak_memory(processes: Processes) -> dict[str, float]:
    """{"peak_memory_gib": the most that PyTorch's tensors took since the last call}, on the GPU that took most.

    Empty on CPUs, whose allocator does not count. A collective among the hosts: the devices have no part in it.
    """
    if processes.device.type != "cuda":
        return {}
    peak = torch.tensor(torch.cuda.max_memory_allocated(processes.device))
    torch.cuda.reset_peak_memory_stats(processes.device)
    dist.all_reduce(peak, dist.ReduceOp.MAX)
    return {"peak_memory_gib": peak.item() / 2**30}
