"""Arithmetic of time: who has it, who shares it, and when nobody does."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from soda_fast.profiling.trace import Span

Interval = tuple[float, float]
BACKGROUND = ("communication", "copy")
"""Kinds that take time only where nothing else runs."""


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals in order that cover the same time."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def length(intervals: Iterable[Interval]) -> float:
    """Time that disjoint intervals cover."""
    return sum(end - start for start, end in intervals)


def overlap(left: Sequence[Interval], right: Sequence[Interval]) -> float:
    """Time that is in both of two lists of disjoint intervals."""
    return length(left) + length(right) - length(union([*left, *right]))


def gaps(busy: Sequence[Interval]) -> list[Interval]:
    """The time between disjoint intervals in order."""
    return [(before[1], after[0]) for before, after in pairwise(busy)]


def attribute(parts: Iterable[tuple[float, float, str]]) -> dict[str, float]:
    """Share out the time that (start, end, kind) cover: each moment once, equally among the kinds that are at work in
    it; the background kinds get only what is left."""
    changes = [change for start, end, kind in parts for change in ((start, 1, kind), (end, -1, kind))]
    changes.sort(key=lambda change: change[0])
    active: Counter[str] = Counter()
    times: dict[str, float] = defaultdict(float)
    last = 0.0
    for time, step, kind in changes:
        present = [name for name, count in active.items() if count]
        owners = [name for name in present if name not in BACKGROUND] or present
        for name in owners:
            times[name] += (time - last) / len(owners)
        active[kind] += step
        last = time
    return dict(times)


def self_times(spans: Sequence[Span]) -> list[float]:
    """Of each span of one thread, in the order of their starts: its duration without that of the spans inside it."""
    own = [span.duration for span in spans]
    stack: list[int] = []
    for number, span in enumerate(spans):
        while stack and spans[stack[-1]].end <= span.start:
            stack.pop()
        if stack:
            own[stack[-1]] -= span.duration
        stack.append(number)
    return own


class Rooms:
    """Which named part of a step the host was in.

    Args:
        annotations: of one thread, properly nested, in the order of their starts.
    """

    def __init__(self, annotations: Sequence[Span]) -> None:
        self._starts: list[float] = []
        self._names: list[str] = []
        stack: list[Span] = []
        for span in annotations:
            self._leave(stack, span.start)
            self._change(span.start, span.name)
            stack.append(span)
        self._leave(stack, float("inf"))

    def _leave(self, stack: list[Span], time: float) -> None:
        while stack and stack[-1].end <= time:
            end = stack.pop().end
            self._change(end, stack[-1].name if stack else "")

    def _change(self, time: float, name: str) -> None:
        self._starts.append(time)
        self._names.append(name)

    def at(self, time: float) -> str:
        """The innermost part; empty where there is none."""
        number = bisect_right(self._starts, time) - 1
        return self._names[number] if number >= 0 else ""
