"""How processes part when one of them fails: one tells of it, and the others learn why they were left."""

import os
import pickle
import time
from contextlib import suppress

import torch.distributed as dist

from soda_fast.errors import Stopped, TrainingError, tell_here
from soda_fast.parallel.word import COUNT, Word, leave_word, word_left

_ENDED = "ended"
"""Counts the processes that came to a good end."""
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


def part(store: dist.Store, rank: int, world_size: int, error: BaseException, heard: Word | None = None) -> None:
    """Leave the others because of `error`, after deciding which process tells of it.

    heard: the word of a process that was told to stop, or has lost another, by which this one is counted already. That
        process tells of it; what else went wrong here is told here.

    Raises:
        Stopped: `error` is the loss of a process that was told to stop.
        TrainingError: it is the loss of another one.
    """
    lost = None
    if world_size > 1 and _is_loss(error):
        # Before this process is counted: the one that keeps the store may go as soon as all are.
        lost = heard or _last_word(store) or TrainingError(_LOST_TEXT)
    if heard is None:
        here = _is_first_to_part(store)
    else:
        here = lost is None and isinstance(error, Exception)  # Stopped is none
    tell_here(lost or error, here)
    if isinstance(reason := lost or error, Stopped):
        reason.excused = True
    # After it was counted: whoever hears of it must not be the first.
    if isinstance(error, Stopped):
        leave_word(store, error)
    elif isinstance(lost, TrainingError):
        # Who waits for this process, rather than for the one that is lost, notices when the store is gone.
        leave_word(store, lost)
    _keep_store(store, rank, world_size)
    # Of several processes none takes the group apart: that would wait for the others, which may never come.
    if world_size == 1:
        if dist.is_initialized():
            dist.destroy_process_group()
    elif lost is not None:
        raise lost from error


def part_well(store: dist.Store, rank: int, world_size: int) -> None:
    """Leave the others at a good end. This process no longer listens to the store; the one that keeps it waits until
    nobody does, or ten seconds: whoever asks a store that is gone makes PyTorch print where it failed.
    """
    with suppress(dist.DistError):  # whoever keeps it has gone
        store.add(_ENDED, 1)
    _keep_store(store, rank, world_size)


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


def _last_word(store: dist.Store) -> Word | None:
    try:
        return word_left(store)
    except dist.DistError:
        return None  # the store went with a process that said nothing


def _is_first_to_part(store: dist.Store) -> bool:
    try:
        return store.add(COUNT, 1) == 1
    except dist.DistError:
        return True  # the store went with a process that said nothing


def _keep_store(store: dist.Store, rank: int, world_size: int) -> None:
    """Without torchrun, which keeps the store itself, it goes with the first process: that lets the others ask."""
    if rank != 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    until = time.monotonic() + _LAST_QUESTIONS_S
    with suppress(dist.DistError):  # whoever keeps it has gone
        while store.add(COUNT, 0) + store.add(_ENDED, 0) < world_size and time.monotonic() < until:
            time.sleep(0.05)
