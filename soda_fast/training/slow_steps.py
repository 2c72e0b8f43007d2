"""Noticing a step that suddenly takes much longer, without waiting for the device."""

import statistics
import time
from collections import deque

import torch

_HISTORY = 50
_ENOUGH = 10
_HICCUP_S = 0.02  # less is not worth a look: a garbage collection, another process on the core


class SlowSteps:
    """Compares each step with the median of those before.

    On a GPU, events in its stream measure the steps; they are read once they have passed, a few steps later.

    Args:
        factor: a step is slow at this many times the median; 0: none is.
    """

    def __init__(self, factor: float, device: torch.device) -> None:
        self._factor, self._on_gpu = factor, device.type == "cuda"
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._begin_event: torch.cuda.Event | None = None
        self._begin_s: float | None = None

    def begin(self) -> None:
        """A step begins, with its wait for images."""
        if self._on_gpu:
            self._begin_event = _passing()
        else:
            self._begin_s = time.perf_counter()

    def end(self) -> str | None:
        """It has ended on the host. A sentence, if a step that has ended on the device was slow."""
        if self._on_gpu:
            return self._look_at_events()
        if self._begin_s is None:
            return None
        return self.judge(time.perf_counter() - self._begin_s)

    def judge(self, seconds: float) -> str | None:
        """A sentence, if a step of that length is slow among those before."""
        median = statistics.median(self._history) if len(self._history) >= _ENOUGH else None
        self._history.append(seconds)
        if not self._factor or median is None or seconds <= max(self._factor * median, median + _HICCUP_S):
            return None
        return f"a step took {seconds:.3f} s, {seconds / median:.1f} times the median of {median:.3f} s"

    def _look_at_events(self) -> str | None:
        if self._begin_event is not None:
            self._pending.append((self._begin_event, _passing()))
            self._begin_event = None
        found = None
        while self._pending and self._pending[0][1].query():
            begin, end = self._pending.popleft()
            found = self.judge(begin.elapsed_time(end) / 1e3) or found
        return found


def _passing() -> torch.cuda.Event:
    """An event that passes when all that has been launched so far is done."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
