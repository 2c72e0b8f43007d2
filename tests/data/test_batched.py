"""The batched backend against torchvision on Pillow images.

| what | tolerance, in grey levels |
| --- | --- |
| cutting, mirroring, resizing; all operations but blur (1, see test_colour.py) | 0 |
| resizing with Pillow 13 and later, boxes reduced more than twice as much in height as in width | 1 |
"""

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig
from soda_fast.data.batched import Resize
from soda_fast.data.executor import make_executor
from soda_fast.data.image_set import ArrayImages
from soda_fast.data.views import ViewPlan, plan
from soda_fast.pixels import resize as resize_compiled
from tests.data.pictures import array_set

CPU = torch.device("cpu")


def views(
    images: ArrayImages, plans: list[ViewPlan], sizes: list[int], backend: str, threads: int = 2
) -> list[np.ndarray]:
    execute = make_executor(images, sizes, DataConfig(backend=backend, threads=threads), CPU, len(images))
    made = [view.numpy() for view in execute(np.arange(len(images)), plans)]
    execute.close()
    return made


def drawn(images: ArrayImages, num_ops: int, stream: str) -> ViewPlan:
    view = ViewConfig(randaugment_num_ops=num_ops)
    return plan(view, 1, stream, np.arange(len(images)), images.heights, images.widths)


@pytest.mark.parametrize("name", ["digits", "clouds", "noise", "tiny", "coil"])
@pytest.mark.parametrize("size", [5, 8, 32, 100])
def test_resized_views_are_torchvisions_in_every_grey_level(name: str, size: int) -> None:
    images = array_set(name)
    planned = drawn(images, 0, "source")
    ours, theirs = (views(images, [planned], [size], backend)[0] for backend in ("batched", "torchvision"))
    tall = (planned.height > size) & (planned.height - size > 2 * (planned.width - size))
    np.testing.assert_array_equal(ours[~tall], theirs[~tall])
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pixels", "resize"):
        monkeypatch.setattr(f"soda_kernels.cpu.{module}.library", lambda: None)


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_every_length_is_resized_as_pillow_does(size: int, compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways at once, from 1 to 61 pixels, in an image of another height."""
    if not compiler:
        without_compiler(monkeypatch)
    pixels = np.random.default_rng(0).integers(0, 256, (61, 40, 61, 3), dtype=np.uint8)
    lengths = np.arange(1, 62)
    zero, nothing = np.zeros(61, np.int64), np.zeros((61, 0))
    heights = np.minimum(lengths, 40)
    whole = ViewPlan(zero, zero, heights, lengths, lengths % 2 == 0, nothing.astype(np.int64), nothing)
    made = Resize(40, 61, size, CPU)(torch.from_numpy(pixels), whole).numpy()
    for row, (height, width) in enumerate(zip(heights, lengths, strict=True)):
        # In two steps: whether Pillow begins with the rows or the columns depends on its version.
        box = Image.fromarray(pixels[row, :height, :width]).resize((size, height), Image.Resampling.BILINEAR)
        box = box.resize((size, size), Image.Resampling.BILINEAR)
        expected = np.asarray(box)[:, ::-1] if width % 2 == 0 else np.asarray(box)
        np.testing.assert_array_equal(made[row], expected, err_msg=f"{height}x{width}")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (23, 2), (31, 31), (64, 64), (130, 70)])
@pytest.mark.parametrize("size", [1, 2, 22, 64, 65])
def test_c_resizes_as_tensors_do(shape: tuple[int, int], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any box, of noise, black and white; results that end within a processor's vector."""
    generator, count = np.random.default_rng(size), 40
    pixels = generator.integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    pixels[0], pixels[1], pixels[2, ::2] = 0, 255, 255
    sides = np.stack([generator.integers(1, side + 1, count) for side in shape])
    corners = np.floor(generator.random((2, count)) * (np.array(shape)[:, None] - sides + 1)).astype(np.int64)
    planned = ViewPlan(
        *corners, *sides, generator.random(count) < 0.5, np.zeros((count, 0), np.int64), np.zeros((count, 0))
    )
    resize, images = Resize(*shape, size, CPU), torch.from_numpy(pixels)
    boxes = torch.from_numpy(np.stack((*corners, *sides, planned.flip.astype(np.int64)), axis=1))
    assert resize_compiled(images, boxes, resize._first, resize._weights) is not None, "this machine has a C compiler"
    compiled = resize(images, planned)
    without_compiler(monkeypatch)
    assert torch.equal(compiled, resize(images, planned))


def test_two_whole_views_are_torchvisions_whatever_the_threads() -> None:
    """Crop to RandAugment, of different sizes; hue and grayscale too."""
    images = array_set("clouds")
    view = ViewConfig(jitter_probability=0.8, grayscale_probability=0.2, solarize_probability=0.2)
    plans = [
        plan(view, 1, "source", np.arange(len(images)), images.heights, images.widths),
        drawn(images, 2, "target"),
    ]
    expected = views(images, plans, [64, 48], "torchvision")
    for threads in (1, 2, 3):
        for ours, theirs in zip(views(images, plans, [64, 48], "batched", threads), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_views_without_a_compiler_are_the_same_and_come_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    images = array_set("digits")
    planned = drawn(images, 2, "source")
    expected = views(images, [planned], [8], "auto")
    without_compiler(monkeypatch)
    monkeypatch.setattr("soda_fast.pixels.library", lambda: None)
    with pytest.warns(UserWarning, match=r"slower than by DALI: install gcc, or set data\.backend=dali"):
        found = views(images, [planned], [8], "auto")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("compiler", [True, False])
def test_whatever_the_default_device_is(compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the caller's thread, which has this default, and in threads, which have not."""
    if not compiler:
        without_compiler(monkeypatch)
    images = array_set("digits")
    planned, pixels = drawn(images, 2, "source"), torch.from_numpy(images.take(np.arange(len(images))))
    expected = views(images, [planned], [8], "batched"), Resize(*pixels.shape[1:3], 8, CPU)(pixels, planned)
    with torch.device("meta"):
        found = views(images, [planned], [8], "batched"), Resize(*pixels.shape[1:3], 8, CPU)(pixels, planned)
    np.testing.assert_array_equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
