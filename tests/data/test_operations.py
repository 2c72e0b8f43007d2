"""RandAugment, operation by operation: ours on whole batches against torchvision's on Pillow images.

Tolerance for all fourteen: none. Every grey level is equal, at every magnitude, sign and size tried.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandAugment
from torchvision.transforms import functional as F

from soda_fast.data import pixel_operations
from soda_fast.data.operations import GEOMETRIC, OPERATIONS, SIGNED, in_pixels, inverse_affine, strength
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.reference import execute
from soda_fast.data.views import ViewPlan
from tests.data.pictures import pixels


def operation_plan(operations: np.ndarray, negative: np.ndarray, bin_index: int, size: int) -> ViewPlan:
    """Nothing but operations (N, K) on whole views of this size."""
    count = len(operations)
    zero, whole = np.zeros(count, np.int64), np.full(count, size)
    pairs = zip(operations.flat, negative.flat, strict=True)
    strengths = np.array([strength(OPERATIONS[place], bin_index, bool(sign)) for place, sign in pairs])
    return ViewPlan(zero, zero, whole, whole, np.zeros(count, bool), operations, strengths.reshape(operations.shape))


def magnitude(name: str, bin_index: int, size: int, negative: bool = False) -> float:
    """A strength as torchvision has it, with translations in pixels."""
    planned = strength(name, bin_index, negative)
    return in_pixels(planned, size) if name.startswith("Translate") else planned


def square_images(name: str, size: int, count: int) -> np.ndarray:
    """(count, size, size, 3): pixels cut out, or enlarged without smoothing where they are too small."""
    images = pixels(name, count)
    repeat = -(-size // min(images.shape[1:3]))
    return images.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :size, :size].copy()


@pytest.mark.parametrize("size", [8, 32, 33, 224])
def test_magnitudes_are_torchvisions(size: int) -> None:
    space = RandAugment()._augmentation_space(31, (size, size))
    assert tuple(space) == OPERATIONS
    assert {name for name, (_, signed) in space.items() if signed} == SIGNED
    for name, (magnitudes, signed) in space.items():
        for bin_index in range(31):
            expected = float(magnitudes[bin_index]) if magnitudes.ndim else 0.0
            assert magnitude(name, bin_index, size) == expected
            assert magnitude(name, bin_index, size, negative=True) == (-expected if signed else expected)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("images", "size"), [("digits", 8), ("clouds", 32), ("noise", 33), ("tiny", 64), ("coil", 96)])
def test_operation_equals_torchvision_in_every_grey_level(name: str, images: str, size: int) -> None:
    before = square_images(images, size, count=8)
    for bin_index in (0, 1, 4, 9, 17, 24, 30):
        for negative in (False, True) if name in SIGNED else (False,):
            operations = np.full((len(before), 1), OPERATIONS.index(name))
            planned = operation_plan(operations, np.full(operations.shape, negative), bin_index, size)
            ours = apply_operations(torch.from_numpy(before.copy()), planned).numpy()
            theirs = [
                np.asarray(execute(Image.fromarray(image), planned, row, size)) for row, image in enumerate(before)
            ]
            np.testing.assert_array_equal(ours, np.stack(theirs), err_msg=f"bin {bin_index}, negative {negative}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_extreme_images(name: str) -> None:
    """One colour; black and white; a single bright pixel; two grey levels next to each other."""
    size = 16
    before = np.zeros((5, size, size, 3), np.uint8)
    before[0] = (7, 77, 177)
    before[1, ::2] = 255
    before[2, 3, 4] = (255, 1, 2)
    before[3] = 100 + np.arange(size)[:, None, None] % 2
    before[4] = 255
    planned = operation_plan(np.full((5, 1), OPERATIONS.index(name)), np.zeros((5, 1), bool), 9, size)
    ours = apply_operations(torch.from_numpy(before.copy()), planned).numpy()
    for row, image in enumerate(before):
        np.testing.assert_array_equal(ours[row], np.asarray(execute(Image.fromarray(image), planned, row, size)))


@pytest.mark.parametrize("images", ["digits", "clouds", "tiny"])
def test_chains_of_operations_equal_torchvision(images: str) -> None:
    """Every pair of operations, one after the other, in one batch."""
    size = pixels(images).shape[1] if images != "clouds" else 32
    pairs = np.stack(np.meshgrid(np.arange(14), np.arange(14)), axis=-1).reshape(-1, 2)
    negative = np.random.default_rng(0).random(pairs.shape) < 0.5
    before = square_images(images, size, 64)[np.arange(len(pairs)) % 64]
    planned = operation_plan(pairs, negative, 9, size)
    ours = apply_operations(torch.from_numpy(before.copy()), planned).numpy()
    for row, image in enumerate(before):
        theirs = np.asarray(execute(Image.fromarray(image), planned, row, size))
        np.testing.assert_array_equal(ours[row], theirs, err_msg=str([OPERATIONS[i] for i in pairs[row]]))


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
def test_geometry_moves_what_torchvision_moves(name: str) -> None:
    """The matrix, read as a map of points, gives torchvision's result wherever it does not hit a pixel's edge."""
    bin_index, size = 19, 40
    image = square_images("clouds", 40, 1)[0]
    a, b, c, d, e, f = inverse_affine(name, strength(name, bin_index), size)
    y, x = np.mgrid[:size, :size] + 0.5
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    clear = np.minimum(np.abs(source_x - np.round(source_x)), np.abs(source_y - np.round(source_y))) > 1e-3
    inside = (source_x >= 0) & (source_x < size) & (source_y >= 0) & (source_y < size)
    at = [np.clip(np.floor(s).astype(int), 0, size - 1) for s in (source_y, source_x)]
    expected = image[at[0], at[1]] * inside[..., None]
    planned = operation_plan(np.array([[OPERATIONS.index(name)]]), np.array([[False]]), bin_index, size)
    actual = np.asarray(execute(Image.fromarray(image), planned, 0, size))
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(actual[clear], expected[clear])


def test_the_reference_is_torchvisions_own_randaugment() -> None:
    """Same operations and signs as torchvision's RandAugment draws from torch's generator: same image."""
    size = 32
    transform = RandAugment(num_ops=2, magnitude=9)
    for row, pixel in enumerate(square_images("clouds", size, 40)):
        torch.manual_seed(row)
        expected = np.asarray(transform(Image.fromarray(pixel)))
        torch.manual_seed(row)
        operations, negative = [], []
        for _ in range(2):
            operations.append(int(torch.randint(14, (1,))))
            negative.append(OPERATIONS[operations[-1]] in SIGNED and bool(torch.randint(2, (1,))))
        planned = operation_plan(np.array([operations]), np.array([negative]), 9, size)
        np.testing.assert_array_equal(np.asarray(execute(Image.fromarray(pixel), planned, 0, size)), expected)


def test_the_reference_crops_resizes_and_mirrors_as_torchvision() -> None:
    image = Image.fromarray(pixels("noise")[0])
    one = np.array([[True]])
    planned = ViewPlan(*np.array([[3], [5], [20], [30]]), one[0], np.zeros((1, 0), np.int64), np.zeros((1, 0)))
    expected = F.hflip(F.resize(F.crop(image, 3, 5, 20, 30), [16, 16], F.InterpolationMode.BILINEAR))
    np.testing.assert_array_equal(np.asarray(execute(image, planned, 0, 16)), np.asarray(expected))


def test_warps_of_large_images_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    operations, strengths = np.array([1, 2, 3, 4, 5]), np.array([0.3, -0.2, 7.0, -9.0, 17.3])
    matrices = torch.from_numpy(pixel_operations._matrices(operations, strengths, 16))
    exact = pixel_operations._warp(images, matrices)
    monkeypatch.setattr(pixel_operations, "_INT32_SIZE", 0)
    assert torch.equal(pixel_operations._warp(images, matrices), exact)
    assert not torch.equal(exact, images)
