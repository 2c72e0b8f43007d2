"""A background thread that prepares batches ahead of the one in use."""

import atexit
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
_POLL_S = 0.1  # how long a thread that waits may overlook that it should stop


@dataclass
class _Failure:
    error: BaseException


class _End:
    """Nothing follows."""


class Prefetcher(Generic[T]):
    """Iterates over `make()` in a background thread, `depth` items ahead.

    On a GPU the thread works on a stream of its own; a consumer's stream waits for an item on the device, not on the
    host. An error in the thread is raised by the `next` that would have returned the item. The thread never keeps the
    process alive.

    Args:
        make: gives the iterator; called in the thread.
        depth: items that may wait, positive.
        device: where the items' tensors lie.
        tensors: the tensors of an item, whose memory must outlive the consumer's stream.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[T]],
        depth: int,
        device: torch.device,
        tensors: Callable[[T], list[torch.Tensor]],
    ) -> None:
        self._make, self._device, self._tensors = make, device, tensors
        self._queue: queue.Queue[tuple[T, torch.cuda.Event | None] | _Failure | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._ended: _Failure | _End | None = None
        self._thread = threading.Thread(target=self._work, name="soda-fast-prefetch", daemon=True)
        # A daemon thread that is inside a C++ library when the interpreter goes down can take it down with a crash.
        atexit.register(self.close)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        got = self._ended or self._queue.get()
        if isinstance(got, _Failure):
            self._ended = got
            raise got.error
        if isinstance(got, _End):
            self._ended = got
            raise StopIteration
        item, ready = got
        if ready is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready)
            for tensor in self._tensors(item):
                tensor.record_stream(stream)
        return item

    def close(self) -> None:
        """Stop the thread and wait for it; a `next` that waits in another thread ends. Safe to call twice."""
        self._stop.set()
        self._thread.join()
        # Where items lie in the queue nobody waits.
        with suppress(queue.Full):
            self._queue.put_nowait(_End())
        atexit.unregister(self.close)

    def _work(self) -> None:
        try:
            if self._device.type == "cuda":
                with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.Stream(self._device)):
                    self._produce()
            else:
                self._produce()
        except BaseException as error:  # handed to the caller, whatever it is
            self._put(_Failure(error))

    def _produce(self) -> None:
        for item in self._make():
            ready = torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None
            if not self._put((item, ready)):
                return
        self._put(_End())

    def _put(self, entry: "tuple[T, torch.cuda.Event | None] | _Failure | _End") -> bool:
        """False if the consumer went away."""
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
