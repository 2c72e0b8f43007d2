"""How processes part when one of them fails: one tells of it, and the others learn why they were left."""

import json
import os
import pickle
import time
from contextlib import suppress

import torch.distributed as dist

from soda_fast.errors import Stopped, TrainingError, tell_here

_LAST_QUESTIONS_S = 10.0
# What pickling raises, and what an error's own __init__ may when it is given its sentence in place of its arguments.
_UNPORTABLE = (
    *(pickle.PickleError, AttributeError, TypeError, ValueError, LookupError),
    *(ArithmeticError, ImportError, OSError, RuntimeError),
)
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "Connection refused")
_LOST_TEXT = (
    "another process of this run was lost; the checkpoints are whole, and the same command goes on from the last one "
    "(torchrun --max-restarts=N does so by itself)"
)


def part(store: dist.Store, rank: int, world_size: int, error: BaseException) -> None:
    """Leave the others because of `error`, after deciding which process tells of it.

    Raises:
        Stopped: `error` is the loss of a process that was told to stop.
        TrainingError: it is the loss of another one.
    """
    if isinstance(error, Stopped):
        _leave_word(store, error)
    lost = None
    if world_size > 1 and _is_loss(error):
        # Before this process is counted: the one that keeps the store may go as soon as all are.
        lost = _word_left(store) or TrainingError(_LOST_TEXT)
    here = _first_to_fail(store, rank, world_size)
    tell_here(lost or error, here)
    # Of several processes none takes the group apart: that would wait for the others, which may never come.
    if world_size == 1:
        if dist.is_initialized():
            dist.destroy_process_group()
    elif lost is not None:
        raise lost from error


def portable(error: BaseException) -> BaseException:
    """The error, or what it says if it cannot travel to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except _UNPORTABLE:
        return TrainingError(f"process 0: {type(error).__name__}: {error}")
    return error


def _is_loss(error: BaseException) -> bool:
    """Whether a collective failed because another process is not there any more."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)
    )


def _leave_word(store: dist.Store, error: Stopped) -> None:
    """Let those who will miss this process know that it was told to stop."""
    with suppress(dist.DistError):  # the store is gone, and the others with it
        store.set("stopped", json.dumps([str(error), error.exit_code]))


def _word_left(store: dist.Store) -> Stopped | None:
    try:
        return Stopped(*json.loads(store.get("stopped"))) if store.check(["stopped"]) else None
    except dist.DistError:
        return None


def _first_to_fail(store: dist.Store, rank: int, world_size: int) -> bool:
    """Whether this is the first of the processes that asks."""
    try:
        first = store.add("first_to_fail", 1) == 1
        # Without torchrun, which keeps the store itself, it goes with the first process: that lets the others ask.
        keeps_it = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        until = time.monotonic() + _LAST_QUESTIONS_S
        while keeps_it and store.add("first_to_fail", 0) < world_size and time.monotonic() < until:
            time.sleep(0.05)
    except dist.DistError:
        return True  # the store went with a process that said nothing
    return first
