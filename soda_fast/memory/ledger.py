"""What lies in memory while a training step runs: every allocation that PyTorch makes, by what it is for."""

import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# What CUDA's caching allocator rounds to.
BLOCK_BYTES = 512
OTHER = "activations"
GATHERED = "gathered"
_COMMUNICATION = ("fsdp", "c10d", "_c10d_functional")


@dataclass
class _Allocation:
    kind: str
    bytes: int = 0


@dataclass(frozen=True)
class Usage:
    """Bytes by kind. at_peak: when the sum was largest. largest: of each kind at its own largest moment."""

    at_peak: dict[str, int]
    largest: dict[str, int]

    @property
    def peak(self) -> int:
        """The largest sum."""
        return sum(self.at_peak.values())


class MemoryLedger(TorchDispatchMode):
    """Follows storages from their allocation to their end, on real tensors or on fake ones, while it is entered.

    Storages that no `name` was given and that no communication touches are "activations": saved for the backward pass,
    or temporary. What an operation allocates and frees inside (a library's workspace) is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._allocations: Any = WeakIdKeyDictionary()
        self._events: list[tuple[_Allocation, int]] = []
        self._resize = torch.UntypedStorage.resize_

    def name(self, kind: str, tensors: Iterable[Tensor | None]) -> None:
        """Say what tensors are for; those not seen before are counted from now on."""
        for tensor in tensors:
            if tensor is not None:
                self._follow(tensor).kind = kind

    def usage(self) -> Usage:
        """From the first event to now."""
        now: dict[str, int] = defaultdict(int)
        largest: dict[str, int] = defaultdict(int)
        total = peak = 0
        at_peak: dict[str, int] = {}
        for allocation, change in self._events:
            now[allocation.kind] += change
            largest[allocation.kind] = max(largest[allocation.kind], now[allocation.kind])
            total += change
            if total > peak:
                peak, at_peak = total, dict(now)
        return Usage(at_peak, dict(largest))

    @classmethod
    def is_infra_mode(cls) -> bool:
        """To torch.compile: no reason to leave compiled code, whose operations come here all the same."""
        return True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """To torch.compile, as above."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its local operations come here one by one
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        if func.namespace in _COMMUNICATION:
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, Tensor) and (allocation := self._follow(leaf)).kind == OTHER:
                    allocation.kind = GATHERED
        return result

    def __enter__(self) -> "MemoryLedger":
        ledger, resize = self, self._resize

        # FSDP frees gathered weights, and allocates them again, by their storages' size: no operation to see.
        def noted_resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage not in ledger._allocations:
                ledger._start(storage, GATHERED)
            ledger._note(ledger._allocations[storage], storage.nbytes())
            return result

        torch.UntypedStorage.resize_ = noted_resize  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(kind, error, trace)

    def _follow(self, tensor: Tensor) -> _Allocation:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        if storage not in self._allocations:
            allocation = self._start(storage, OTHER)
            if local.device.type != "meta":  # a fake tensor says what it plays
                self._note(allocation, storage.nbytes())
        return self._allocations[storage]

    def _start(self, storage: torch.UntypedStorage, kind: str) -> _Allocation:
        self._allocations[storage] = allocation = _Allocation(kind)
        weakref.finalize(storage, self._note, allocation, 0).atexit = False
        return allocation

    def _note(self, allocation: _Allocation, size: int) -> None:
        rounded = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        self._events.append((allocation, rounded - allocation.bytes))
        allocation.bytes = rounded
