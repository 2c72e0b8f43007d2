"""The seam between plans and pixels: what a backend must do, and which backend does it."""

import importlib.util
import os
import warnings
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soda_fast.config.schema import DataConfig
from soda_fast.cores import whole_cores
from soda_fast.data.image_set import DecodedImages, ImageSet
from soda_fast.data.views import ViewPlan
from soda_fast.fused_views import check_kernels
from soda_fast.pixels import in_c

Backend = Literal["dali", "batched", "torchvision"]
DALI_DIFFERS = "whose resized views differ by one grey level here and there"


class ViewExecutor(Protocol):
    """Decodes each image once and makes one view of it for each plan; of pairs, each view is of another image."""

    def __call__(self, indices: NDArray[np.int64], plans: Sequence[ViewPlan]) -> list[Tensor]:
        """Views of the images at `indices` (N,): for each plan an (N, S, S, 3) uint8 RGB tensor on the device.

        Of pairs, `indices` are (V, N): a row for each of the V plans.

        Raises:
            ValueError: a file cannot be read; names it.
            UnreadableImages: images cannot be decoded; names them, and the executor can go on.
        """
        ...

    def close(self) -> None:
        """Free threads and device memory. The executor cannot be used afterwards."""
        ...


def make_executor(
    images: ImageSet,
    sizes: Sequence[int],
    data: DataConfig,
    device: torch.device,
    max_batch: int,
    *,
    many_calls: bool = False,
    paired: bool = False,
) -> ViewExecutor:
    """The executor that data.backend asks for.

    Args:
        images: where the images come from.
        sizes: side of each view in pixels, one for each plan of a call.
        data: `backend`, `kernels`, `threads` and `resident_device_mib` are read.
        device: where the views end up.
        max_batch: most images of a call.
        many_calls: all images will be asked for again and again, so that a copy on a GPU pays.
        paired: the views are of different images.

    Raises:
        ValueError: data.backend is dali and DALI is not installed, or batched and the images are not in memory;
            data.kernels is triton and it does not run on the device.
    """
    check_kernels(data.kernels, device)
    threads = data.threads or default_threads()
    backend = resolve_backend(data.backend, isinstance(images, DecodedImages))
    if backend == "batched":
        from soda_fast.data.batched import BatchedExecutor

        assert isinstance(images, DecodedImages), "resolve_backend refuses others"
        small = len(images) * images.image_bytes <= data.resident_device_mib << 20
        if device.type == "cpu" and not in_c():
            warnings.warn(
                "views are made by tensor operations, several times slower than in C and slower than by DALI: "
                f"install gcc, or set data.backend=dali, {DALI_DIFFERS}",
                stacklevel=2,
            )
        on_device = many_calls and small and device.type == "cuda"
        return BatchedExecutor(images, sizes, device, threads, on_device, data.kernels)
    if backend == "dali":
        from soda_fast.data.dali import DaliExecutor

        return DaliExecutor(images, sizes, device, threads, max_batch, paired, data.kernels)
    # torchvision takes seconds to import, and a process that uses DALI does not need it.
    from soda_fast.data.reference import TorchvisionExecutor

    return TorchvisionExecutor(images, sizes, device, threads)


def resolve_backend(backend: Backend | Literal["auto"], decoded: bool) -> Backend:
    """What `auto` means on this machine, for images that are decoded in memory or not.

    Whether there is a C compiler does not matter, although DALI is faster on a CPU without one: its resized views
    differ from the batched ones by a grey level, and views are not to depend on a compiler.

    Raises:
        ValueError: what is asked for cannot be.
    """
    if backend == "batched" and not decoded:
        raise ValueError(
            "data.backend is batched, but these images are not decoded in memory: they differ in size, or take more "
            "than data.resident_mib; raise data.resident_mib, or set data.backend=auto"
        )
    if backend == "batched" or (backend == "auto" and decoded):
        return "batched"
    if backend == "torchvision":
        return "torchvision"
    if dali_is_installed():
        return "dali"
    if backend == "dali":
        raise ValueError(
            "data.backend is dali, but DALI is not installed; pip install nvidia-dali-cuda130, or set "
            "data.backend=torchvision"
        )
    return "torchvision"


def dali_is_installed() -> bool:
    """Whether DALI can be imported. Other packages live below `nvidia` too."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def default_threads() -> int:
    """The cores this process may use, divided among the machine's processes (torchrun tells how many)."""
    return max(1, whole_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
