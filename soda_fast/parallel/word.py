"""The word that a process leaves in the store when it is told to stop, for those that will miss it."""

import json
import os
import sys
import threading
from contextlib import suppress

import torch.distributed as dist

from soda_fast.errors import Stopped

COUNT = "parted"
"""Counts the processes that know that all part."""
_WORD = "stopped"
_LOOK_S = 0.5
_PATIENCE_S = 10.0


class Listener:
    """Listens, in a thread of its own, whether another process was told to stop.

    A process learns that another is gone when a collective fails, and then its word may be gone too: without torchrun
    the store goes with the first process. So it is heard beforehand, and its process waits until all have heard it.
    Where no collective fails, as on a GPU or in a long compilation, the process ends ten seconds after the word.

    Args:
        store: of all processes; None: there is nobody to listen to.
    """

    def __init__(self, store: dist.Store | None) -> None:
        self.word: Stopped | None = None
        self._store = store
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="word", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        if self._store is not None:
            # A connection of its own: another thread may be waiting in the processes' one.
            self._store = self._store.clone()
            self._thread.start()

    def close(self) -> Stopped | None:
        """Listen no longer; what was heard. This process is then counted."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(2 * _LOOK_S)  # not for ever: the store of a frozen process never answers
        return self.word

    def _listen(self) -> None:
        assert self._store is not None
        with suppress(RuntimeError):  # the store is gone: asked again, PyTorch would print where it failed each time
            while self.word is None:
                if self._done.wait(_LOOK_S):
                    return
                self.word = word_left(self._store)
            self._store.add(COUNT, 1)
        if self.word is not None and not self._done.wait(_PATIENCE_S):
            _leave_at_once(self.word.exit_code)


def _leave_at_once(code: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # even if nobody takes what was printed
        os._exit(code)


def leave_word(store: dist.Store, error: Stopped) -> None:
    """Let those who will miss this process know that it was told to stop."""
    with suppress(dist.DistError):  # the store is gone, and the others with it
        store.set(_WORD, json.dumps([str(error), error.exit_code]))


def word_left(store: dist.Store) -> Stopped | None:
    """What a process that was told to stop has left.

    Raises:
        DistError: the store is gone.
    """
    return Stopped(*json.loads(store.get(_WORD))) if store.check([_WORD]) else None
