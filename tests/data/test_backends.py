"""DALI against torchvision: the same plans, the same images.

| what | tolerance, in grey levels |
| --- | --- |
| decoding JPEG (baseline, progressive, 4:4:4, 4:2:2, 4:2:0, grey, CMYK), PNG (RGB, RGBA, grey, palette, 1 bit) | 0 |
| cutting, mirroring, the central square at its own size | 0 |
| resizing, pixels inside the view | 1 at most, 0.2 in the mean |
| resizing, outermost pixels of a view made larger | 1 at most |
| resizing, outermost pixels of a view made smaller | 32 at most: DALI repeats the edge, Pillow shortens the filter |
| RandAugment's fourteen operations | 0 (test_operations.py) |
| colour jitter, grayscale, solarize; blur | 0; 1 at most (test_colour.py) |
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import PATIENCE_S
from PIL import Image

from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig
from soda_fast.data import executor
from soda_fast.data.executor import make_executor
from soda_fast.data.image_set import FileImages, ImageSet
from soda_fast.data.views import ViewPlan, clean_plan, plan
from tests.data.pictures import (
    CIFAR_JPEG,
    COIL,
    TINY_IMAGENET,
    array_set,
    clouds,
    encode,
    file_set,
    needs_dali,
    real_files,
)

CPU = torch.device("cpu")


def views_of(
    images: ImageSet, plans: Sequence[ViewPlan], sizes: Sequence[int], backend: str, threads: int = 2, batch: int = 0
) -> list[np.ndarray]:
    """Views of all images, through one backend, in batches of this many (0: in one)."""
    data = DataConfig(backend=backend, threads=threads)
    batch = batch or len(images)
    execute = make_executor(images, sizes, data, CPU, batch)
    parts = []
    for start in range(0, len(images), batch):
        rows = np.arange(start, min(start + batch, len(images)))
        parts.append([view.numpy() for view in execute(rows, [p.rows(rows) for p in plans])])
    execute.close()
    return [np.concatenate(views) for views in zip(*parts, strict=True)]


def random_plan(images: ImageSet, num_ops: int = 0, stream: str = "source") -> ViewPlan:
    view = ViewConfig(randaugment_num_ops=num_ops)
    return plan(view, 1, stream, np.arange(len(images)), images.heights, images.widths)


def difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.abs(left.astype(int) - right)


def picture_files() -> dict[str, bytes]:
    """One file of each kind that may come."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(clouds(generator, 60, 84))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "420.jpg": encode(image, "JPEG", quality=75),
        "422.jpg": encode(image, "JPEG", quality=85, subsampling=1),
        "444.jpg": encode(image, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "odd.jpg": encode(image.crop((0, 0, 33, 47)), "JPEG"),
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "turned.jpg": encode(image, "JPEG", exif=turned),
        "several.jpg": encode(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
        "rgb.png": encode(image, "PNG"),
        "turned.png": encode(image, "PNG", exif=turned),
        "rgba.png": encode(Image.fromarray(clouds(generator, 60, 84, 4)), "PNG"),
        "grey.png": encode(image.convert("L"), "PNG"),
        "grey_alpha.png": encode(image.convert("LA"), "PNG"),
        "palette.png": encode(image.quantize(64), "PNG"),
        "palette_transparent.png": encode(image.quantize(64), "PNG", transparency=3),
        "one_bit.png": encode(image.convert("1"), "PNG"),
    }


@needs_dali
@pytest.mark.parametrize("name", picture_files())
def test_every_kind_of_file_is_decoded_to_the_same_pixels(name: str, tmp_path: Path) -> None:
    images = file_set(tmp_path, {name: picture_files()[name]})
    side = int(min(images.heights[0], images.widths[0]))
    plans = [clean_plan(images.heights, images.widths)]
    (ours,) = views_of(images, plans, [side], "dali")
    (theirs,) = views_of(images, plans, [side], "torchvision")
    np.testing.assert_array_equal(ours, theirs)


@needs_dali
@pytest.mark.parametrize(("archive", "side"), [(CIFAR_JPEG, 32), (TINY_IMAGENET, 64), (COIL, 128)])
def test_real_files_are_decoded_to_the_same_pixels(archive: str, side: int, tmp_path: Path) -> None:
    files = {f"{number}.img": content for number, content in enumerate(real_files(archive, 64))}
    images = file_set(tmp_path, files)
    plans = [clean_plan(images.heights, images.widths)]
    np.testing.assert_array_equal(*(views_of(images, plans, [side], name)[0] for name in ("dali", "torchvision")))


@needs_dali
@pytest.mark.parametrize("name", ["digits", "clouds", "noise", "tiny", "coil"])
@pytest.mark.parametrize("size", [8, 32, 100])
def test_resized_views_differ_by_one_grey_level_inside(name: str, size: int) -> None:
    images = array_set(name)
    plans = [random_plan(images)]
    (ours,), (theirs,) = (views_of(images, plans, [size], backend) for backend in ("dali", "torchvision"))
    off = difference(ours, theirs)
    assert off[:, 1:-1, 1:-1].max() <= 1
    assert off[:, 1:-1, 1:-1].mean() < 0.2
    made_larger = (plans[0].height <= size) & (plans[0].width <= size)
    assert off[made_larger].max(initial=0) <= 1
    assert off.max() <= 32


@needs_dali
def test_cutting_and_mirroring_without_resizing_is_exact() -> None:
    images = array_set("noise")
    count, generator = len(images), np.random.default_rng(0)
    top, left = generator.integers(0, 37 - 16 + 1, count), generator.integers(0, 61 - 16 + 1, count)
    side, nothing = np.full(count, 16), np.zeros((count, 0), np.int64)
    planned = ViewPlan(top, left, side, side, generator.random(count) < 0.5, nothing, nothing.astype(float))
    for backend in ("dali", "torchvision"):
        (views,) = views_of(images, [planned], [16], backend)
        for row, view in enumerate(views):
            box = images.pixels[row, top[row] : top[row] + 16, left[row] : left[row] + 16]
            np.testing.assert_array_equal(view, box[:, ::-1] if planned.flip[row] else box)


@needs_dali
@pytest.mark.parametrize("name", ["digits", "tiny"])
def test_two_whole_views_agree(name: str) -> None:
    """Crop to RandAugment, both views from one decoding. Equalize and Posterize may magnify a resizing's one level."""
    images = array_set(name)
    plans = [random_plan(images, 2, "source"), random_plan(images, 2, "target")]
    sizes = [images.pixels.shape[1]] * 2
    for ours, theirs in zip(views_of(images, plans, sizes, "dali"), views_of(images, plans, sizes, "torchvision")):
        assert difference(ours, theirs).mean() < 0.6
    assert (plans[0].top != plans[1].top).any()


CONTRASTIVE = ViewConfig(
    randaugment_probability=0.0, jitter_probability=0.8, grayscale_probability=0.2, solarize_probability=0.2
)


@needs_dali
@pytest.mark.parametrize(("archive", "side"), [(TINY_IMAGENET, 64), (COIL, 128)])
@pytest.mark.parametrize("view", [ViewConfig(), CONTRASTIVE], ids=["reference", "contrastive"])
def test_from_real_files_to_finished_views_nothing_differs_but_resizing(
    archive: str, side: int, view: ViewConfig, tmp_path: Path
) -> None:
    """Whole images at their own size: decoding and all operations are equal in every grey level. Cut and resized to two
    sizes: a resizing's one level is carried on, by hue, equalize and solarize also magnified, in few places."""
    files = {f"{number}.img": content for number, content in enumerate(real_files(archive, 64))}
    images = file_set(tmp_path, files)
    place = np.arange(len(images)), images.heights, images.widths
    whole = [plan(replace(view, crop_flip_probability=0.0), 1, "source", *place)]
    np.testing.assert_array_equal(*(views_of(images, whole, [side], name)[0] for name in ("dali", "torchvision")))
    cut = [plan(view, 1, stream, *place) for stream in ("source", "target")]
    sizes = [side, side // 2]
    for ours, theirs in zip(views_of(images, cut, sizes, "dali"), views_of(images, cut, sizes, "torchvision")):
        inside = difference(ours, theirs)[:, 1:-1, 1:-1]
        assert inside.mean() < 0.6
        assert (inside > 8).mean() < 0.01


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=needs_dali), "torchvision"])
def test_bytes_depend_neither_on_threads_nor_on_the_batch(backend: str, tmp_path: Path) -> None:
    images = file_set(tmp_path, {**picture_files(), **{f"again_{k}": v for k, v in picture_files().items()}})
    plans = [random_plan(images, 2, "source"), random_plan(images, 2, "target")]
    whole = views_of(images, plans, [32, 24], backend, threads=1)
    assert [view.shape for view in whole] == [(34, 32, 32, 3), (34, 24, 24, 3)]
    for threads, batch in ((2, 0), (1, 1), (2, 10)):
        for view, expected in zip(views_of(images, plans, [32, 24], backend, threads, batch), whole, strict=True):
            np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=needs_dali), "torchvision"])
def test_views_are_not_overwritten_by_the_next_call(backend: str) -> None:
    images = array_set("digits")
    execute = make_executor(images, [8], DataConfig(backend=backend), CPU, 4)
    plans = [clean_plan(images.heights[:4], images.widths[:4])]
    (first,) = execute(np.arange(4), plans)
    kept = first.clone()
    execute(np.arange(4, 8), plans)
    execute.close()
    assert torch.equal(first, kept)
    np.testing.assert_array_equal(first.numpy(), images.pixels[:4])


BROKEN = {
    "garbage": lambda content: b"no image at all, but long enough to look at",
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "another size": lambda content: encode(Image.new("RGB", (9, 9)), "JPEG"),
}


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=needs_dali), "torchvision"])
@pytest.mark.parametrize("damage", BROKEN)
def test_a_file_that_breaks_later_is_named(backend: str, damage: str, tmp_path: Path) -> None:
    images = file_set(tmp_path, {f"{i}.jpg": picture_files()["420.jpg"] for i in range(4)})
    images.paths[2].write_bytes(BROKEN[damage](images.paths[2].read_bytes()))
    execute = make_executor(images, [16], DataConfig(backend=backend), CPU, 4)
    with pytest.raises(ValueError, match=r"2\.jpg: (cannot be decoded .*replace the file|is 9x9 pixels, was 84x60)"):
        execute(np.arange(4), [random_plan(images)])
    (views,) = execute(np.array([0, 1]), [clean_plan(images.heights[:2], images.widths[:2])])
    assert views.shape == (2, 16, 16, 3), "the executor goes on"
    execute.close()


@pytest.mark.parametrize("backend", [pytest.param("dali", marks=needs_dali), "torchvision"])
def test_a_file_that_vanishes_is_named(backend: str, tmp_path: Path) -> None:
    images = file_set(tmp_path, {f"{i}.jpg": picture_files()["420.jpg"] for i in range(4)})
    images.paths[3].unlink()
    execute = make_executor(images, [16], DataConfig(backend=backend), CPU, 4)
    with pytest.raises(ValueError, match=r"3\.jpg: cannot be read \(No such file or directory\); restore"):
        execute(np.arange(4), [random_plan(images)])
    execute.close()


def test_dali_asked_for_and_missing_is_an_error_and_auto_is_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"data.backend is dali.* not installed.*data.backend=torchvision"):
        make_executor(array_set("digits"), [8], DataConfig(backend="dali"), CPU, 4)
    for backend in ("auto", "torchvision"):
        assert executor.resolve_backend(backend, False) == "torchvision"


def test_auto_is_batched_if_the_images_are_decoded(tmp_path: Path) -> None:
    files = file_set(tmp_path, {"a.jpg": picture_files()["420.jpg"]})
    assert executor.resolve_backend("auto", True) == "batched"
    assert executor.resolve_backend("auto", False) != "batched"
    with pytest.raises(ValueError, match=r"data.backend is batched, but .* raise data.resident_mib"):
        make_executor(files, [8], DataConfig(backend="batched"), CPU, 1)


def test_threads_are_divided_among_a_machines_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "whole_cores", lambda: 12)
    assert executor.default_threads() == 12
    for processes, threads in ((5, 2), (24, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert executor.default_threads() == threads


@needs_dali
@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_algorithms_leave_out_a_gpus_jpeg_decoder(
    deterministic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which images of a batch it gets depends on the others."""
    from nvidia.dali import fn

    from soda_fast.data.dali import DaliExecutor

    loads, decode = [], fn.decoders.image

    def look(*inputs: object, **options: object) -> object:
        loads.append(options.get("hw_decoder_load"))
        return decode(*inputs, **options)

    monkeypatch.setattr(fn.decoders, "image", look)
    images = file_set(tmp_path, {"a.png": encode(Image.new("RGB", (9, 9)), "PNG")})
    torch.use_deterministic_algorithms(deterministic)
    try:
        DaliExecutor(images, [8], CPU, 1, 1).close()
    finally:
        torch.use_deterministic_algorithms(False)
    assert loads == [0.0 if deterministic else None]


@needs_dali
def test_dali_writes_no_warnings_and_is_imported_only_when_used() -> None:
    code = (
        "import sys, numpy, torch\n"
        "from soda_fast.config.schema import DataConfig\n"
        "from soda_fast.data import TrainLoader, load_dataset\n"
        "assert not [m for m in sys.modules if m.startswith(('nvidia.dali', 'torchvision'))]\n"
        "data = DataConfig(dataset='digits', backend='dali', source_size=8, target_size=8)\n"
        "digits = load_dataset(data)\n"
        "loader = TrainLoader(digits.train, data, digits.mean, digits.std, seed=0, global_batch=8, rank=0, world=1,\n"
        "                     parts=1, start_position=0, device=torch.device('cpu'))\n"
        "next(loader)\n"
        "assert 'nvidia.dali' in sys.modules and 'torchvision' not in sys.modules\n"
    )
    # The loader is not closed: the process must end by itself all the same.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    images = file_set(tmp_path, {name: picture_files()[name] for name in ("420.jpg", "turned.jpg")})
    assert isinstance(images, FileImages)
    np.testing.assert_array_equal(images.decode(0), images.decode(1))
    assert images.heights.tolist() == [60, 60]
