"""Whether Triton kernels make the views on a GPU, a launch each, and why not."""

from collections.abc import Iterator

from soda_fast.config import Config, ViewConfig
from soda_fast.data.executor import Backend
from soda_fast.data.resize_weights import most_taps
from soda_fast.doctor.findings import Finding
from soda_fast.doctor.hardware import Hardware
from soda_kernels.resize_views import MOST_TAPS
from soda_kernels.view_operations import LARGEST

_MANY = "tensor operations, hundreds of launches for a batch"
_WATCH = "Python may hold up the training's own launches: watch data_wait_share"


def view_findings(config: Config, hardware: Hardware, backend: Backend, longest: int | None) -> Iterator[Finding]:
    """What becomes of data.kernels: nothing on CPUs, where only a wrong choice is told.

    longest: side of the decoded images in pixels; None: they will not lie in memory.
    """
    choice, obstacle = config.data.kernels, hardware.obstacle
    if choice == "triton" and obstacle:
        yield Finding("wrong", "views", f"data.kernels is triton, but {obstacle}", "use auto or pytorch")
    elif hardware.on_gpu and backend != "torchvision":
        yield _on_gpu(config, obstacle, backend, longest)


def _on_gpu(config: Config, obstacle: str | None, backend: Backend, longest: int | None) -> Finding:
    if config.data.kernels == "pytorch":
        return Finding("slow", "views", f"{_MANY} (as configured)", "data.kernels=auto takes Triton kernels")
    if obstacle:
        return Finding("slow", "views", f"{_MANY}: {obstacle}", _WATCH)
    beyond = [*_too_large(config), *(_too_small(config, longest) if backend == "batched" and longest else ())]
    if beyond:
        return Finding("slow", "views", f"{'; '.join(beyond)}: {_MANY}", _WATCH)
    resized = "one launch resizes" if backend == "batched" else "DALI resizes"
    return Finding("ok", "views", f"Triton kernels: {resized}, one does all operations")


def _too_large(config: Config) -> Iterator[str]:
    for key, size, view in _views(config):
        if size > LARGEST and _has_operations(view):
            yield f"data.{key} {size} is beyond the kernel for operations, of at most {LARGEST} pixels"


def _too_small(config: Config, longest: int) -> Iterator[str]:
    for key, size, _ in _views(config):
        if most_taps(longest, size) > MOST_TAPS:
            yield f"data.{key} {size} of images of {longest} pixels is beyond the kernel that resizes"


def _views(config: Config) -> Iterator[tuple[str, int, ViewConfig]]:
    """The key of each view's side, the side, and what happens to it."""
    yield "source_size", config.data.source_size, config.data.source
    yield "target_size", config.data.target_size, config.data.target


def _has_operations(view: ViewConfig) -> bool:
    others = (view.jitter_probability, view.grayscale_probability, view.blur_probability, view.solarize_probability)
    return view.randaugment_num_ops * view.randaugment_probability > 0 or max(others) > 0
