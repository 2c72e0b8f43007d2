"""Rows of a tensor made by all processes together; what is made does not depend on how many there are."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from soda_fast.parallel import Processes


def make_together(
    work: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    count: int,
    shape: tuple[int, ...],
    batch: int,
    processes: Processes,
    title: str,
) -> Tensor:
    """Rows 0..count-1, in batches that are cut alike for any number of processes and dealt out in turns. A collective.

    A row's last digits can depend on the batch that it is computed in, so a process gets whole batches.

    Args:
        work: from batches of row numbers, each (B,) int64 on the CPU, to the rows of each, (B, *shape), in their order.
        count: rows over all processes.
        shape: of a row.
        batch: rows of a batch; the last one may be shorter.
        title: what the progress bar of the main process says; it is shown on terminals.

    Returns:
        (count, *shape) float32 on the processes' device, equal on all of them.
    """
    made = torch.zeros(count, *shape, device=processes.device)
    batches = torch.arange(count).split(batch)
    own = batches[processes.rank :: processes.world_size]
    with tqdm(total=count, desc=title, unit="img", disable=None if processes.is_main else True) as bar:
        for rows, result in zip(own, work(own) if own else (), strict=True):
            made[rows.to(made.device)] = result.float()
            # The others have got about as far.
            bar.update(min(len(rows) * processes.world_size, count - bar.n))
    # Rows of other processes are zero here, so a sum puts them together.
    dist.all_reduce(made)
    return made
