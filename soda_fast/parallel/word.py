"""The word that a process leaves in the store when it is told to stop, or has lost another: for those that miss it."""

import json
import os
import sys
import threading
from contextlib import suppress

import torch.distributed as dist

from soda_fast.errors import Stopped, TrainingError

COUNT = "parted"
"""Counts the processes that know that all part."""
Word = Stopped | TrainingError
"""Why a process left: it was told to stop, or another one was lost."""
_WORD = "word"
_LOOK_S = 0.5
_PATIENCE_S = 10.0


class Listener:
    """Listens, in a thread of its own, whether another process was told to stop, or has lost one.

    A process learns that another is gone when a collective fails, and then its word may be gone too: without torchrun
    the store goes with the first process. So it is heard beforehand, and its process waits until all have heard it.
    Where no collective fails, as on a GPU or in a long compilation, the process ends ten seconds after the word that
    one was told to stop. After a loss it may still be writing a checkpoint.

    Args:
        store: of all processes; None: there is nobody to listen to.
    """

    def __init__(self, store: dist.Store | None) -> None:
        self.word: Word | None = None
        self._store = store
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="word", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        if self._store is not None:
            # A connection of its own: another thread may be waiting in the processes' one.
            self._store = self._store.clone()
            self._thread.start()

    def close(self) -> Word | None:
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
        if isinstance(self.word, Stopped) and not self._done.wait(_PATIENCE_S):
            _leave_at_once(self.word.exit_code)


def _leave_at_once(code: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # even if nobody takes what was printed
        os._exit(code)


def leave_word(store: dist.Store, error: Word) -> None:
    """Let those who will miss this process know why it leaves. That one was told to stop counts more than a loss."""
    with suppress(dist.DistError):  # the store is gone, and the others with it
        if isinstance(error, Stopped):
            store.set(_WORD, json.dumps([str(error), error.exit_code]))
        else:
            store.compare_set(_WORD, "", json.dumps([str(error), None]))


def word_left(store: dist.Store) -> Word | None:
    """What a process that was told to stop, or has lost another, has left.

    Raises:
        DistError: the store is gone.
    """
    if not store.check([_WORD]):
        return None
    text, exit_code = json.loads(store.get(_WORD))
    return TrainingError(text) if exit_code is None else Stopped(text, exit_code)
