"""torch.compile of single methods, in place, and once."""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

# What torch.compile is told for each `perf.compile_mode`.
_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "max-autotune": {"mode": "max-autotune-no-cudagraphs"},
    "cuda-graphs": {"mode": "reduce-overhead"},
}


def compile_method(module: nn.Module, name: str, mode: str = "default") -> None:
    """Compile a method of `module` in place: whole (a graph break is an error), for fixed shapes, names unchanged.

    Not `module.compile()`: that would trace FSDP's hooks too, which torch 2.14 refuses with fullgraph. The hooks run
    around the compiled forward instead.

    Args:
        module: owns the method.
        name: of the method.
        mode: default; max-autotune: time the variants of each kernel; cuda-graphs: replay each method's kernels as one
            graph.
    """
    method = _with_own_code(getattr(module, name))
    setattr(module, name, torch.compile(method, fullgraph=True, dynamic=False, **_OPTIONS[mode]))


def _with_own_code(method: Callable[..., Any]) -> Callable[..., Any]:
    """The bound method with a code object of its own.

    torch.compile keeps what it has compiled with the code object, tries the entries one after the other, and gives up
    at eight: more than eight blocks of one class and different shapes would be an error, and fewer would be slow. It
    also takes the second block's other widths for a reason to compile for any.
    """
    function = method.__func__  # type: ignore[attr-defined]
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return MethodType(own, method.__self__)  # type: ignore[attr-defined]
