"""A plan's operations, on the whole batch at once or on the threads of a CPU."""

from torch import Tensor

from soda_fast.config.types import Kernels
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.row_threads import RowThreads
from soda_fast.data.views import ViewPlan

_CACHED_VALUES = 1 << 19  # of views operated on at once on a CPU: groups large enough, arrays small enough


def operate(views: Tensor, plan: ViewPlan, threads: RowThreads | None, kernels: Kernels) -> None:
    """Carry out the plan's operations in place.

    Args:
        views: (N, S, S, 3) uint8, contiguous.
        plan: of these N views.
        threads: that share the rows; None: the batch is done at once.
        kernels: data.kernels.
    """
    if threads is None:
        apply_operations(views, plan, kernels)
        return

    def work(rows: slice) -> None:
        apply_operations(views[rows], plan.rows(rows), kernels)

    threads.for_rows(work, len(views), max(1, _CACHED_VALUES // views[0].numel()))
