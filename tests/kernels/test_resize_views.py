"""The kernel's boxes, resized and mirrored, are the tensor code's bit for bit, and so Pillow's; and it is what runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_cases import DEVICE

from soda_fast import fused_views
from soda_fast.config.types import Kernels
from soda_fast.data.batched import BatchedExecutor, Resize
from soda_fast.data.operations import NAMES
from soda_fast.data.views import ViewPlan
from soda_kernels.resize_views import LARGEST, MOST_TAPS
from soda_kernels.view_operations import LARGEST as LARGEST_CHANGED
from tests.data.pictures import array_set


def resized(images: np.ndarray, plan: ViewPlan, size: int, kernels: str) -> np.ndarray:
    device = torch.device(DEVICE)
    resize = Resize(images.shape[1], images.shape[2], size, device, kernels)
    if kernels == "pytorch":
        resize._first, resize._weights = resize._first.cpu(), resize._weights.cpu()
        numbers = (plan.top, plan.left, plan.height, plan.width, plan.flip.astype(np.int64))
        return resize._make(torch.from_numpy(images), torch.from_numpy(np.stack(numbers, axis=1))).numpy()
    return resize(torch.from_numpy(images).to(device), plan).cpu().numpy()


def boxes_inside(count: int, height: int, width: int) -> ViewPlan:
    """Of any place and form; the first is the whole image, the second its last pixel, the third its last column."""
    generator = np.random.default_rng(0)
    heights, widths = generator.integers(1, height + 1, count), generator.integers(1, width + 1, count)
    heights[:3], widths[:3] = (height, 1, height), (width, 1, 1)
    top, left = generator.integers(0, height - heights + 1), generator.integers(0, width - widths + 1)
    top[:3], left[:3] = (0, height - 1, 0), (0, width - 1, width - 1)
    nothing = np.zeros((count, 0))
    flip = generator.random(count) < 0.5
    return ViewPlan(top, left, heights, widths, flip, nothing.astype(np.int64), nothing)


@pytest.mark.parametrize(
    ("count", "height", "width", "size"),
    [(6, 32, 32, 32), (6, 32, 32, 14), (4, 37, 61, 24), (6, 9, 16, 33), (6, 1, 5, 8), (6, 5, 1, 3)],
)
def test_views_are_the_tensor_codes(count: int, height: int, width: int, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    pixels[:2] = pixels[:2] // 128 * 255
    plan = boxes_inside(count, height, width)
    ours, theirs = (resized(pixels, plan, size, kernels) for kernels in ("triton", "pytorch"))
    np.testing.assert_array_equal(ours, theirs)


def test_images_much_larger_than_their_views_are_left_to_tensors() -> None:
    pixels, plan = np.random.default_rng(0).integers(0, 256, (4, 40, 9, 3), dtype=np.uint8), boxes_inside(4, 40, 9)
    assert Resize(40, 9, 4, torch.device(DEVICE), "triton")._weights.shape[2] > MOST_TAPS
    np.testing.assert_array_equal(*(resized(pixels, plan, 4, kernels) for kernels in ("triton", "pytorch")))


def test_no_images() -> None:
    plan = boxes_inside(8, 4, 4).rows(slice(0))
    assert resized(np.zeros((0, 4, 4, 3), np.uint8), plan, 3, "triton").shape == (0, 3, 3, 3)


@pytest.mark.parametrize(
    ("kernels", "middle", "launches"),
    [("triton", "Equalize", (2, 2)), ("triton", "Blur", (2, 4)), ("pytorch", "Equalize", (0, 0))],
)
def test_one_launch_resizes_a_view_and_one_does_all_operations_between_blurs(
    kernels: Kernels, middle: str, launches: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two views of one batch, each with three operations."""
    resizings = counted(monkeypatch, "soda_fast.data.batched.resize", fused_views.resize)
    operations = counted(monkeypatch, "soda_fast.data.pixel_operations.carry_out", fused_views.carry_out)
    steps = np.array([[NAMES.index(name) for name in ("Solarize", middle, "Color")]] * 3)
    changed = replace(boxes_inside(3, 8, 8), operations=steps, strengths=np.full(steps.shape, 0.5), blur_kernel=3)
    execute = BatchedExecutor(array_set("digits", 3), (8, 8), torch.device(DEVICE), 1, False, kernels)
    execute(np.arange(3), [changed, changed])
    execute.close()
    assert (len(resizings), len(operations)) == launches


def counted(monkeypatch: pytest.MonkeyPatch, place: str, function: Callable[..., object]) -> list[object]:
    """A list that comes to hold the arguments of each call of the function by this name."""
    calls: list[object] = []

    def call(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    monkeypatch.setattr(place, call)
    return calls


@pytest.mark.parametrize(
    ("kernels", "obstacle", "fused"), [("auto", None, True), ("auto", "old", False), ("pytorch", None, False)]
)
def test_auto_takes_the_kernels_on_a_gpu_that_runs_them(
    kernels: Kernels, obstacle: str | None, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soda_fast.fused_views.why_not_triton", lambda _: obstacle)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert fused_views.resizes(kernels, gpu, LARGEST, MOST_TAPS) == fused
    assert fused_views.carries_out(kernels, gpu, LARGEST_CHANGED) == fused
    assert not fused_views.resizes(kernels, gpu, LARGEST + 1, MOST_TAPS)
    assert not fused_views.resizes(kernels, gpu, LARGEST, MOST_TAPS + 1)
    assert not fused_views.carries_out(kernels, gpu, LARGEST_CHANGED + 1)
    assert not fused_views.resizes(kernels, cpu, LARGEST, MOST_TAPS)
    assert fused_views.threads_share_rows(kernels, cpu)
