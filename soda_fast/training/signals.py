"""Being asked to stop: by a scheduler (SIGTERM, SIGUSR1) or by a user (Ctrl-C)."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from soda_fast.errors import EXIT_AGAIN, EXIT_INTERRUPTED, STOP_SIGNALS, Stopped

_ONE_SIGNAL_S = 2.0


class StopRequest:
    """What signals do, as a context manager; `received` is the number of the one that came, 0 for none.

    Until `defer` they raise Stopped: nothing has been learnt yet that could be lost, and opening the data or compiling
    the model may take longer than whoever stops a process is willing to wait. From then on they are noted.
    A second Ctrl-C ends the process at once. Within two seconds of the first it is taken for the same one: a terminal
    sends it to all processes, and torchrun sends it to its own again.
    In a thread other than the main one signals are not handled.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at_once, self._time = True, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on there is something to save first."""
        self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._time = number, now
            if self._at_once:
                self._at_once = False
                raise Stopped(
                    f"stopped by {signal_name(number)} before the first step, so that nothing is lost; the same "
                    "command starts again",
                    exit_code(number),
                )
        elif number == signal.SIGINT and now - self._time > _ONE_SIGNAL_S:
            raise KeyboardInterrupt


def exit_code(number: int) -> int:
    """130 after Ctrl-C, else 75."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_AGAIN


def signal_name(number: int) -> str:
    """As in SIGTERM."""
    return signal.Signals(number).name
