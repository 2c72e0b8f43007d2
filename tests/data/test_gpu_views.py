"""The data path on a GPU. DALI's resizing there has its own rounding, hence a tolerance in the mean."""

from itertools import islice

import numpy as np
import pytest
import torch

from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig
from soda_fast.config.types import Kernels
from soda_fast.data import TrainLoader
from soda_fast.data.batched import BatchedExecutor, Resize
from soda_fast.data.executor import dali_is_installed
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.views import plan
from tests.data.pictures import array_set, clouds, pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")
BACKENDS = ["torchvision", "batched"] + ["dali"] * (dali_is_installed())


@pytest.mark.parametrize("kernels", ["triton", "pytorch"])
def test_randaugment_is_equal_in_every_grey_level(kernels: Kernels) -> None:
    count = 512
    images = torch.from_numpy(pixels("clouds", 64)[np.arange(count) % 64, :48, :48])
    sizes = np.full(count, 48)
    view = ViewConfig(randaugment_probability=1.0, randaugment_num_ops=3)
    planned = plan(view, 0, "source", np.arange(count), sizes, sizes)
    on_gpu = apply_operations(images.to(GPU), planned, kernels).cpu()
    assert torch.equal(on_gpu, apply_operations(images.clone(), planned))


@pytest.mark.parametrize(("size", "taken"), [(32, 32), (64, 32), (64, 14), (24, 48), (256, 32)])
def test_one_launch_resizes_as_many_do(size: int, taken: int) -> None:
    """Boxes of noise, mirrored or not: equal in every bit."""
    count, generator = min(1024, (1 << 22) // size**2), np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)).to(GPU)
    planned = plan(ViewConfig(), 0, "source", np.arange(count), np.full(count, size), np.full(count, size))
    fused, plain = (Resize(size, size, taken, GPU, kernels)(images, planned) for kernels in ("triton", "pytorch"))
    assert torch.equal(fused, plain)


@pytest.mark.parametrize("size", [3, 8, 32, 33, 64])
def test_one_launch_makes_the_views_of_many(size: int) -> None:
    """Nine steps of each of 1024 views, of pictures and of noise, of all operations but blur: equal in every bit."""
    count, generator = 1024, np.random.default_rng(size)
    pictures = torch.from_numpy(np.stack([clouds(generator, size, size) for _ in range(count // 2)]))
    images = torch.cat((pictures, torch.from_numpy(generator.integers(0, 256, pictures.shape, dtype=np.uint8))))
    colourful = ViewConfig(
        randaugment_probability=1.0, randaugment_num_ops=3, randaugment_magnitude=int(generator.integers(31)),
        jitter_probability=0.5, grayscale_probability=0.1, solarize_probability=0.2,
    )  # fmt: skip
    planned = plan(colourful, 0, "source", np.arange(count), np.full(count, size), np.full(count, size))
    fused, plain = (apply_operations(images.to(GPU), planned, kernels).cpu() for kernels in ("triton", "pytorch"))
    wrong = (fused != plain).flatten(1).any(dim=1)
    assert not wrong.any(), f"{int(wrong.sum())} views, with operations {np.unique(planned.operations[wrong.numpy()])}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_are_those_of_the_cpu_while_the_gpu_is_busy(backend: str) -> None:
    """A consumer that keeps its stream full must neither see half-written batches nor have them overwritten."""

    def batches(device: torch.device, name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = TrainLoader(
            array_set("clouds"),
            DataConfig(
                backend=name, source=ViewConfig(randaugment_num_ops=0), target=ViewConfig(randaugment_num_ops=0)
            ),
            (0.5, 0.5, 0.5),
            (0.25, 0.25, 0.25),
            seed=0,
            global_batch=32,
            rank=0,
            world=1,
            parts=1,
            start_position=0,
            device=device,
        )
        busy = torch.zeros(4096, 4096, device=device) if device.type == "cuda" else None
        seen = []
        for batch in islice(loader, 8):
            if busy is not None:
                busy = busy @ busy
            seen.append((batch.source * 1, batch.target * 1))
        loader.close()
        return [(source.cpu(), target.cpu()) for source, target in seen]

    for ours, reference in zip(batches(GPU, backend), batches(CPU, "torchvision"), strict=True):
        for left, right, grey_level in zip(ours, reference, (1 / 255 / 0.25, 1 / 255), strict=True):
            assert left.shape == right.shape
            if backend == "batched":
                assert (left - right).abs().max() < 0.01 * grey_level
            assert (left - right).abs().mean() < (1.0 if backend == "dali" else 0.01) * grey_level


ALL_OPERATIONS = ViewConfig(
    jitter_probability=0.8, grayscale_probability=0.2, blur_probability=0.5, solarize_probability=0.2
)


@pytest.mark.parametrize("on_device", [True, False])
def test_batched_views_are_those_of_the_cpu_and_nothing_waits_for_the_device(on_device: bool) -> None:
    """All operations, in every grey level but for blur's rounding; a synchronisation is an error."""
    images = array_set("clouds")
    indices = np.arange(len(images))
    plans = [plan(ALL_OPERATIONS, 0, stream, indices, images.heights, images.widths) for stream in ("source", "target")]

    def views(device: torch.device) -> list[torch.Tensor]:
        execute = BatchedExecutor(images, (48, 32), device, 1, on_device and device.type == "cuda")
        execute(indices, plans)  # the first call may allocate, which synchronises
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if device.type == "cuda" else "default")
        try:
            made = execute(indices, plans)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        execute.close()
        return [view.cpu() for view in made]

    for ours, theirs in zip(views(GPU), views(CPU), strict=True):
        assert (ours != theirs).float().mean() < 1e-3


def test_views_are_channels_last() -> None:
    loader = TrainLoader(
        array_set("digits"), DataConfig(source_size=8, target_size=8), (0.5,) * 3, (0.25,) * 3,
        seed=0, global_batch=8, rank=0, world=1, parts=1, start_position=0, device=GPU,
    )  # fmt: skip
    batch = next(loader)
    loader.close()
    assert batch.target.is_contiguous(memory_format=torch.channels_last)
