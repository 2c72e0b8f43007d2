"""Where the time goes: training, waiting for data, and pauses that are not training; and when it is time to save."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """images_per_second: without pauses. data_wait_share: of that time, 0..1, in which training waited for images."""

    images_per_second: float
    data_wait_share: float


class Clock:
    """Measures intervals of training. Call `lap` only where the device has finished (after reading a result)."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start, self._waited, self._paused = now(), 0.0, 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time inside counts as training, and as waiting for data."""
        start = self._now()
        yield
        self._waited += self._now() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside (evaluation, checkpoints, pictures) does not count."""
        start = self._now()
        yield
        self._paused += self._now() - start

    def lap(self, images: int) -> Pace:
        """The pace over the `images` trained since the last lap; a new lap starts."""
        seconds = max(self._now() - self._start - self._paused, 1e-9)
        pace = Pace(images / seconds, self._waited / seconds)
        self._start, self._waited, self._paused = self._now(), 0.0, 0.0
        return pace


class ShareTimer:
    """As a context manager, again and again: which share of the time since its making is spent inside."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._made = now()
        self.seconds = 0.0

    @property
    def share(self) -> float:
        """0..1."""
        return self.seconds / max(self._now() - self._made, 1e-9)

    def __enter__(self) -> None:
        self._entered = self._now()

    def __exit__(self, *error: object) -> None:
        self.seconds += self._now() - self._entered


class SaveTimer:
    """When a checkpoint is due by the clock on the wall.

    The process whose clock counts asks for one, and what it asked reaches all processes some steps later. It does not
    ask again until the save that answers it.

    interval_s: None: never.
    """

    def __init__(self, interval_s: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._now = interval_s, now
        self._asked_at = self._saved_at = 0
        self.restart()

    def restart(self) -> None:
        """The interval begins now."""
        self._start = self._now()

    def saved(self, images_seen: int) -> None:
        """A checkpoint has been begun, on all processes; it answers what was asked before."""
        self._saved_at = images_seen
        self.restart()

    def is_due(self, interval_s: float | None = None) -> bool:
        """Whether the interval, or this shorter one, has passed since then."""
        passed = self._now() - self._start
        return self._interval_s is not None and passed >= (self._interval_s if interval_s is None else interval_s)

    def ask(self, images_seen: int) -> int:
        """images_seen to ask for a checkpoint of it or of a later step; 0 to ask for none."""
        if not self.is_due() or self._asked_at > self._saved_at or images_seen == self._saved_at:
            return 0
        self._asked_at = images_seen
        return images_seen

    def is_wanted(self, asked_at: int) -> bool:
        """Whether what some process asked for has not been saved since: the same on all that were told of it."""
        return asked_at > self._saved_at
