"""Time on a GPU: events around replays of a CUDA graph, so that neither Python nor launches count.

On a CPU the clock runs around plain calls: to see that a benchmark works, and for CPUs' own ceilings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from benchmarks.timing import spread, timed, waiter

ROTATED_BYTES = 512 * 2**20  # several times the L2 cache of any GPU
MAX_ROTATIONS = 256  # reached by tensors below 2 MiB: these may stay in the cache
REPLAYS = 15
CPU_ROUNDS = 3
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**26}


@dataclass(frozen=True)
class Microseconds:
    """Of one call: median and quartiles over the replays."""

    median: float
    lower_quartile: float
    upper_quartile: float


def rotations(bytes_per_call: int, device: torch.device) -> int:
    """How many sets of inputs to go through, so that none is found in a GPU's cache."""
    if device.type == "cpu":
        return 2
    return min(MAX_ROTATIONS, max(2, -(-ROTATED_BYTES // max(1, bytes_per_call))))


@cache
def capture_stream() -> torch.cuda.Stream:
    """Where everything that is timed must run from the start: autograd runs a backward on its forward's stream, and
    another stream must not be drawn into a capture."""
    return torch.cuda.Stream()


def time_calls(calls: Sequence[Callable[[], object]], device: torch.device, replays: int = REPLAYS) -> Microseconds:
    """Capture all calls, each on inputs of its own, in one graph and time its replays there; a figure per call."""
    if device.type == "cpu":
        return _on_cpu(calls)
    torch.cuda.synchronize()
    with torch.cuda.stream(capture_stream()):
        for call in (*calls[:2], *calls[:1]):  # compile, and let libraries choose, before the capture
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=capture_stream()):
        kept = [call() for call in calls]
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * start.elapsed_time(end) / len(calls))
    del kept
    lower, median, upper = spread(times)
    return Microseconds(median, lower, upper)


def _on_cpu(calls: Sequence[Callable[[], object]]) -> Microseconds:
    def all_of_them() -> None:
        for call in calls:
            call()

    calls[0]()
    seconds = timed(all_of_them, waiter(torch.device("cpu")), CPU_ROUNDS)
    lower, median, upper = spread([1e6 * taken / len(calls) for taken in seconds])
    return Microseconds(median, lower, upper)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy in the device's memory moves, reads and writes counted."""
    size = COPIED_BYTES[device.type]
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    targets = [torch.empty_like(source) for _ in range(2)]
    taken = time_calls([partial(target.copy_, source) for target in targets], device)
    return 2 * size / (taken.median * 1e-6)
