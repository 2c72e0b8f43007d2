"""Names for parts of a step, as a profiler shows them: in Kineto's traces, and as NVTX ranges in Nsight's."""

from types import TracebackType

import torch


class span:
    """Names what runs inside: `with span("encoder"): ...`. About a microsecond where nobody looks.

    An NVTX range wherever CUDA is in use, and an annotation while a PyTorch profiler records. Inside code that
    torch.compile traces it does nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._annotation: torch.profiler.record_function | None = None
        self._in_nvtx = False

    def __enter__(self) -> None:
        if torch.compiler.is_compiling():
            return
        if torch.cuda.is_initialized() and torch.version.cuda is not None:
            torch.cuda.nvtx.range_push(self._name)
            self._in_nvtx = True
        if torch.autograd._profiler_enabled():
            self._annotation = torch.profiler.record_function(self._name)
            self._annotation.__enter__()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._annotation is not None:
            self._annotation.__exit__(kind, error, trace)
        if self._in_nvtx:
            torch.cuda.nvtx.range_pop()
