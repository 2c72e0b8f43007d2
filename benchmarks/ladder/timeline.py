"""Where a step's time goes, on the device's own clock, without waiting for the device while it works."""

import time
from collections import defaultdict
from dataclasses import dataclass

import torch

PHASES = ("data", "forward", "backward", "optimizer", "ema", "other")
Mark = float | torch.cuda.Event


@dataclass(frozen=True)
class Steps:
    """Seconds of each step, and of each phase in each step; the phases of a step add up to it."""

    seconds: list[float]
    phases: dict[str, list[float]]


class Timeline:
    """Marks on the stream of work. On a GPU they are CUDA events: what lies between two is what the device did or
    waited for between them, however far ahead the host is. On a CPU they are readings of the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forget all; the first step starts here."""
        self._steps: list[list[tuple[str, Mark]]] = [[]]
        self._start = self._now()

    def end(self, phase: str) -> None:
        """What happened since the mark before was `phase` (one of PHASES; a phase may come several times)."""
        self._steps[-1].append((phase, self._now()))

    def end_step(self) -> None:
        """The last mark ended a step."""
        self._steps.append([])

    def read(self) -> Steps:
        """The ended steps. Waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds: list[float] = []
        phases: dict[str, list[float]] = {phase: [] for phase in PHASES}
        previous = self._start
        for marks in self._steps[:-1]:
            spent: dict[str, float] = defaultdict(float)
            for phase, mark in marks:
                spent[phase] += _between(previous, mark)
                previous = mark
            seconds.append(sum(spent.values()))
            for phase in PHASES:
                phases[phase].append(spent[phase])
        return Steps(seconds, phases)

    def _now(self) -> Mark:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: Mark, end: Mark) -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    return 1e-3 * start.elapsed_time(end)  # type: ignore[union-attr, arg-type]
