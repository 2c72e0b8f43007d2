"""Signals that wait until what must not be torn is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from soda_fast.errors import STOP_SIGNALS


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What SIGTERM, SIGUSR1 and SIGINT do, they do at the end.

    A handler that raises takes away what the interrupted call was about to return. A process group goes with its
    connections then, and the other processes see this one lost before it could say that it was told to stop.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    # None is a handler that was not set from Python: it cannot be put back.
    before = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) is not None}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signalled in came:
            signal.raise_signal(signalled)
