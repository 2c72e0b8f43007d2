"""Time on a GPU: events around replays of a CUDA graph, so that neither Python nor launches count.

Without a GPU the clock runs around plain calls: to see that a benchmark works, and for CPUs' own ceilings.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

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


def rotations(bytes_per_call: int) -> int:
    """How many sets of inputs to go through, so that none is found in the cache."""
    if not torch.cuda.is_available():
        return 2
    return min(MAX_ROTATIONS, max(2, -(-ROTATED_BYTES // max(1, bytes_per_call))))


@cache
def capture_stream() -> torch.cuda.Stream:
    """Where everything that is timed must run from the start: autograd runs a backward on its forward's stream, and
    another stream must not be drawn into a capture."""
    return torch.cuda.Stream()


def time_calls(calls: Sequence[Callable[[], object]], replays: int = REPLAYS) -> Microseconds:
    """Capture all calls, each on inputs of its own, in one graph and time its replays; a figure per call."""
    if not torch.cuda.is_available():
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
    lower, median, upper = statistics.quantiles(times, n=4)
    return Microseconds(median, lower, upper)


def _on_cpu(calls: Sequence[Callable[[], object]]) -> Microseconds:
    calls[0]()
    times = []
    for _ in range(CPU_ROUNDS):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append(1e6 * (time.perf_counter() - start) / len(calls))
    lower, median, upper = statistics.quantiles(times, n=4)
    return Microseconds(median, lower, upper)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy in the device's memory moves, reads and writes counted."""
    size = COPIED_BYTES[device.type]
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    targets = [torch.empty_like(source) for _ in range(2)]
    taken = time_calls([partial(target.copy_, source) for target in targets])
    return 2 * size / (taken.median * 1e-6)
