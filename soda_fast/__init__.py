"""SODA: representation learning by bottleneck diffusion (Hudson et al., arXiv 2311.17901), fast and exact."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soda_fast.pretrained import load, load_encoder

__version__ = "0.1.0"
__all__ = ["load", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import the Python API on first use, so that `soda-fast --help` answers without loading torch."""
    if name in __all__:
        return getattr(import_module("soda_fast.pretrained"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
