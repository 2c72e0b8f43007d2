"""How libraries choose among kernels while a run trains: the fastest, or always the same."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def kernel_choice(deterministic: bool) -> Iterator[None]:
    """Let PyTorch, cuDNN, cuBLAS and Inductor use deterministic kernels only, or try which are fastest.

    To be entered before the first operation on a GPU. At the end everything is as it was before. Code that asks
    `torch.are_deterministic_algorithms_enabled()` learns of the choice.

    Args:
        deterministic: train.deterministic. An operation that has no deterministic kernel is a RuntimeError.
    """
    with ExitStack() as before:
        # 0: off; 1: operations without a deterministic kernel warn; 2: they are errors.
        before.callback(_use_deterministic, torch.get_deterministic_debug_mode())
        _use_deterministic(2 if deterministic else 0)
        before.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = not deterministic
        # Or every torch.empty would be written twice: nothing here reads what it has not written.
        memory: Any = torch.utils.deterministic
        before.callback(setattr, memory, "fill_uninitialized_memory", memory.fill_uninitialized_memory)
        memory.fill_uninitialized_memory = False
        if deterministic and _CUBLAS not in os.environ:
            # cuBLAS is deterministic only with a workspace of fixed size, which it reads before its first product.
            os.environ[_CUBLAS] = ":4096:8"
            before.callback(os.environ.pop, _CUBLAS, None)
        yield


def _use_deterministic(mode: int) -> None:
    """Unlike torch.set_deterministic_debug_mode, this tells Inductor too, which takes seconds to import."""
    if mode or torch.get_deterministic_debug_mode():
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
