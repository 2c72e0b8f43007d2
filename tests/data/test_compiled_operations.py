"""Operations in C on a CPU against the tensor code that other devices, and machines without a compiler, run.

Tolerance: none. Every grey level is equal, of every operation, at every strength that a plan can have.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from soda_fast.data import pixel_operations
from soda_fast.data.operations import IDENTITY, NAMES, OPERATIONS, SIGNED, strength
from soda_fast.data.pixel_operations import _apply_step, apply_compiled
from tests.data.pictures import pixels

IN_C = [name for name in NAMES if name not in ("Hue", "Blur")]


def odd_images(size: int) -> np.ndarray:
    """(12, size, size, 3): constant ones, one channel constant, two levels, a single pixel, extremes, noise."""
    images = np.zeros((12, size, size, 3), np.uint8)
    images[1], images[2], images[3] = 255, 1, (7, 77, 177)
    images[4, ::2] = 255
    images[5, size // 2, size // 3] = (255, 1, 2)
    images[6] = 100 + np.arange(size)[:, None, None] % 2
    noise = np.random.default_rng(size).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    noise[0, ..., 1] = 9
    noise[1] = noise[1] % 3
    noise[2] = 255 - noise[2] % 3
    noise[3] = 20 + noise[3] % 200
    images[7:] = noise
    return images


def strengths_of(name: str) -> list[float]:
    """All of RandAugment's, and of the other recipes' the extremes and some between."""
    signs = (False, True) if name in SIGNED else (False,)
    found = [strength(name, bin_index, sign) for bin_index in range(31) for sign in signs]
    if name in ("Brightness", "Color", "Contrast"):
        found += [-1.0, -0.123456789, 1e-9, 0.4, 3.7, 300.0]
    if name == "Solarize":
        found += [0.0, 0.5, 128.0, 255.5, 256.0]
    return sorted(set(found))


def both(images: np.ndarray, operations: np.ndarray, strengths: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """One step in C and by tensors."""
    compiled, tensors = torch.from_numpy(images.copy()), torch.from_numpy(images.copy())
    left = apply_compiled(compiled, operations, strengths)
    assert (left == IDENTITY).all(), "this machine has a C compiler"
    _apply_step(tensors, operations, strengths, 1)
    return compiled, tensors


def at_every_strength(images: np.ndarray, name: str) -> None:
    strengths = strengths_of(name) if name in OPERATIONS else [0.0]
    many = np.repeat(images, len(strengths), axis=0)
    compiled, tensors = both(many, np.full(len(many), NAMES.index(name)), np.tile(strengths, len(images)))
    assert torch.equal(compiled, tensors)


@pytest.mark.parametrize("name", IN_C)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 33])
def test_odd_images(name: str, size: int) -> None:
    at_every_strength(odd_images(size), name)


@pytest.mark.parametrize("name", IN_C)
@pytest.mark.parametrize(("source", "size"), [("digits", 8), ("clouds", 48), ("tiny", 64), ("coil", 97)])
def test_real_images(name: str, source: str, size: int) -> None:
    at_every_strength(pixels(source, 5)[:, :size, :size].copy(), name)


@pytest.mark.parametrize("size", [1, 4, 15, 16, 17])
def test_every_level_at_every_place_in_a_vector(size: int) -> None:
    """Sizes around a processor's vectors: what is left over at the end of an image is done too, and no more."""
    images = np.random.default_rng(0).integers(0, 256, (256, size, size, 3), dtype=np.uint8)
    images[:] += np.arange(256, dtype=np.uint8)[:, None, None, None]
    operations = np.array([NAMES.index(IN_C[row % len(IN_C)]) for row in range(256)])
    strengths = np.array([strength(NAMES[place], 9) if NAMES[place] in OPERATIONS else 0.0 for place in operations])
    compiled, tensors = both(images, operations, strengths)
    assert torch.equal(compiled, tensors)


def test_what_c_leaves_is_done_by_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hue and blur among other operations, with a compiler and without."""
    images = odd_images(16)
    names = ("Hue", "Blur", "Color", "Rotate", "Identity", "Equalize")
    operations = np.array([[NAMES.index(names[(row + step) % 6]) for step in range(3)] for row in range(12)])
    where = np.arange(12)
    strengths = np.select(
        [operations == NAMES.index(name) for name in ("Hue", "Blur", "Rotate")], [0.2, 1.1, -9.0], 0.3
    )
    planned = pixel_operations.ViewPlan(*np.zeros((4, 12), np.int64), where > 99, operations, strengths, 3)
    compiled = pixel_operations.apply_operations(torch.from_numpy(images.copy()), planned)
    monkeypatch.setattr("soda_kernels.cpu.pixels.library", lambda: None)
    tensors = pixel_operations.apply_operations(torch.from_numpy(images.copy()), planned)
    assert torch.equal(compiled, tensors)
    assert not torch.equal(compiled, torch.from_numpy(images))


def test_many_threads_at_once() -> None:
    images = np.tile(odd_images(33), (8, 1, 1, 1))
    operations = np.arange(len(images)) % len(OPERATIONS)
    strengths = np.array([strength(OPERATIONS[place], 9) for place in operations])
    expected = torch.from_numpy(images.copy())
    _apply_step(expected, operations, strengths, 1)

    def change(_: int) -> torch.Tensor:
        mine = torch.from_numpy(images.copy())
        apply_compiled(mine, operations, strengths)
        return mine

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(change, range(64)))


def test_no_images() -> None:
    nothing = torch.empty(0, 4, 4, 3, dtype=torch.uint8)
    assert not len(apply_compiled(nothing, np.zeros(0, np.int64), np.zeros(0)))
