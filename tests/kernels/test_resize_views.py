"""The kernel's boxes, resized and mirrored, are the tensor code's bit for bit, and so Pillow's."""

import numpy as np
import pytest
import torch
from kernel_cases import DEVICE

from soda_fast.data.batched import Resize
from soda_fast.data.views import ViewPlan
from soda_kernels.resize_views import MOST_TAPS


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
    ("height", "width", "size"), [(32, 32, 32), (32, 32, 14), (37, 61, 24), (9, 16, 33), (1, 5, 8), (5, 1, 3)]
)
def test_views_are_the_tensor_codes(height: int, width: int, size: int) -> None:
    count = 6
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
