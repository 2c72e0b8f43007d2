"""From a trace to the figures that say where a step's time goes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from soda_fast.profiling.kinds import ROOMS, kernel_kind, operation_kind
from soda_fast.profiling.timeline import Rooms, attribute, gaps, length, overlap, self_times, union
from soda_fast.profiling.trace import DEVICE_CATEGORIES, LAUNCH_CATEGORIES, Span

STEP = "ProfilerStep#"
"""Annotations of whole steps begin with it; TensorBoard looks for it too."""
GAP_US = 10.0
"""Shorter pauses between kernels are what a launch costs."""


@dataclass(frozen=True)
class Longest:
    """A kernel (or a CPU's operation, by its own time) that took much of the traced time."""

    name: str
    kind: str
    calls: int
    total_ms: float
    share: float


@dataclass(frozen=True)
class Gaps:
    """Pauses of the GPU of more than GAP_US, in milliseconds. longest_in: where the host was when the longest began."""

    count: int
    total_ms: float
    longest_ms: float
    longest_in: str


@dataclass(frozen=True)
class Summary:
    """Where the time of the traced steps went. All shares are of it, 0..1.

    device: "cuda" or "cpu". steps: how many were traced. step_ms: one of them. shares: by kind (see kinds.py), each
    moment counted once; with `idle` they add up to 1. On a CPU they are the training thread's own times, and idle is
    what it spent outside PyTorch's operations. communication_ms: all of it, of the traced time; overlapped_ms: what of
    it ran while something else did. gaps: None on a CPU. data_wait: the host's wait for images. rooms: the GPU's time
    by the part of the step that launched it, on a CPU the host's own time, as shares.
    """

    device: str
    steps: int
    step_ms: float
    shares: dict[str, float]
    idle: float
    communication_ms: float
    overlapped_ms: float
    gaps: Gaps | None
    data_wait: float
    rooms: dict[str, float]
    longest: list[Longest]


def summarise(spans: Sequence[Span]) -> Summary:
    """The summary of a trace.

    Args:
        spans: from `read_trace`, in the order of their starts.

    Raises:
        ValueError: the trace has no step in it.
    """
    steps = [span for span in spans if span.category == "user_annotation" and span.name.startswith(STEP)]
    if not steps:
        raise ValueError(f"the trace has no {STEP} annotation, so there is no step to summarise")
    main = [span for span in spans if span.lane == steps[0].lane]
    on_device = [span for span in spans if span.category in DEVICE_CATEGORIES]
    rooms = Rooms([span for span in main if span.category == "user_annotation" and span.name in ROOMS])
    host = (steps[0].start, max(step.end for step in steps))
    waited = sum(span.duration for span in main if span.name == "data" and span.category == "user_annotation")
    data_wait = waited / (host[1] - host[0])
    if on_device:
        return _of_gpu(spans, on_device, rooms, len(steps), data_wait)
    return _of_cpu(spans, main, rooms, host, len(steps), data_wait)


def _of_gpu(spans: Sequence[Span], on_device: list[Span], rooms: Rooms, steps: int, data_wait: float) -> Summary:
    launches = {span.correlation: span.start for span in spans if span.category in LAUNCH_CATEGORIES}
    # Backward is launched by a thread of its own, while the main one waits in the part that it names.
    launched_in = [rooms.at(launches[span.correlation]) if span.correlation in launches else "" for span in on_device]
    kinds = [kernel_kind(span.name, room) for span, room in zip(on_device, launched_in, strict=True)]
    busy = union((span.start, span.end) for span in on_device)
    window = busy[-1][1] - busy[0][0]
    times = attribute((span.start, span.end, kind) for span, kind in zip(on_device, kinds, strict=True))
    talk = union((span.start, span.end) for span, kind in zip(on_device, kinds, strict=True) if kind == "communication")
    work = union((span.start, span.end) for span, kind in zip(on_device, kinds, strict=True) if kind != "communication")
    by_room = attribute(
        (span.start, span.end, room or "elsewhere") for span, room in zip(on_device, launched_in, strict=True)
    )
    return Summary(
        device="cuda",
        steps=steps,
        step_ms=window / steps / 1e3,
        shares=_shares(times, window),
        idle=1 - length(busy) / window,
        communication_ms=length(talk) / 1e3,
        overlapped_ms=overlap(talk, work) / 1e3,
        gaps=_gaps(busy, rooms),
        data_wait=data_wait,
        rooms=_shares(by_room, window),
        longest=_longest(on_device, kinds, [span.duration for span in on_device], window),
    )


def _of_cpu(
    spans: Sequence[Span],
    main: list[Span],
    rooms: Rooms,
    host: tuple[float, float],
    steps: int,
    data_wait: float,
) -> Summary:
    window = host[1] - host[0]
    operations = [span for span in main if span.category == "cpu_op" and host[0] <= span.start and span.end <= host[1]]
    own = self_times(operations)
    inside = [rooms.at(span.start) for span in operations]
    kinds = [operation_kind(span.name, room) for span, room in zip(operations, inside, strict=True)]
    times: dict[str, float] = defaultdict(float)
    for kind, time in zip(kinds, own, strict=True):
        times[kind] += time
    named = [span for span in main if span.category == "user_annotation" and span.name in ROOMS]
    by_room: dict[str, float] = defaultdict(float)
    for span, time in zip(named, self_times(named), strict=True):
        by_room[span.name] += time
    # Gloo's own threads do the talking; the training thread computes or waits meanwhile.
    talk = union((span.start, span.end) for span in spans if span.name.startswith("gloo:"))
    work = union(
        (span.start, span.end)
        for span, kind in zip(operations, kinds, strict=True)
        if kind not in ("communication", "other")
    )
    return Summary(
        device="cpu",
        steps=steps,
        step_ms=window / steps / 1e3,
        shares=_shares(times, window),
        idle=1 - sum(times.values()) / window,
        communication_ms=length(talk) / 1e3,
        overlapped_ms=overlap(talk, work) / 1e3,
        gaps=None,
        data_wait=data_wait,
        rooms=_shares(by_room, window),
        longest=_longest(operations, kinds, own, window),
    )


def _shares(times: dict[str, float], window: float) -> dict[str, float]:
    """Largest first."""
    return {name: time / window for name, time in sorted(times.items(), key=lambda item: -item[1]) if time > 0}


def _gaps(busy: list[tuple[float, float]], rooms: Rooms) -> Gaps:
    pauses = [pause for pause in gaps(busy) if pause[1] - pause[0] > GAP_US]
    if not pauses:
        return Gaps(0, 0.0, 0.0, "")
    longest = max(pauses, key=lambda pause: pause[1] - pause[0])
    return Gaps(len(pauses), length(pauses) / 1e3, (longest[1] - longest[0]) / 1e3, rooms.at(longest[0]))


def _longest(spans: list[Span], kinds: list[str], times: list[float], window: float, count: int = 10) -> list[Longest]:
    """By name: those that took most time in all their calls."""
    totals: dict[tuple[str, str], list[float]] = defaultdict(list)
    for span, kind, time in zip(spans, kinds, times, strict=True):
        totals[span.name, kind].append(time)
    order = sorted(totals.items(), key=lambda item: -sum(item[1]))[:count]
    return [Longest(name, kind, len(all_), sum(all_) / 1e3, sum(all_) / window) for (name, kind), all_ in order]
