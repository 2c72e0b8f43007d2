"""The kernel's views are the tensor code's bit for bit: every operation, every strength, hard images, any size."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from kernel_cases import DEVICE
from triton.runtime.errors import OutOfResources

from soda_fast.config import ViewConfig
from soda_fast.config.schema import DataConfig
from soda_fast.config.types import Kernels
from soda_fast.data.executor import Backend, dali_is_installed, make_executor
from soda_fast.data.operations import NAMES, NUM_BINS, SIGNED, strength
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.views import ViewPlan, plan
from soda_fast.errors import TrainingError
from soda_fast.fused_views import check_kernels
from soda_kernels import KernelFailed, change_views
from soda_kernels.start import starting
from soda_kernels.view_operations import FIELDS, LARGEST, Step
from tests.data.pictures import array_set, clouds, pixels

EXCEPT_BLUR = [name for name in NAMES if name != "Blur"]


def whole_plan(operations: np.ndarray, strengths: np.ndarray, kernel: int = 1) -> ViewPlan:
    """Nothing but operations (N, K)."""
    zero = np.zeros(len(operations), np.int64)
    return ViewPlan(zero, zero, zero, zero, zero.astype(bool), operations, strengths, kernel)


def strengths_of(name: str) -> np.ndarray:
    """All that RandAugment has, and for what jitter changes too, some between its limits."""
    generator = np.random.default_rng(0)
    found = {strength(name, place, sign) for place in range(NUM_BINS) for sign in (False, name in SIGNED)}
    if name in ("Brightness", "Color", "Contrast"):
        found |= {-1.0, 1.0, *generator.uniform(-1, 1.5, 20)}
    if name == "Hue":
        found = {-0.5, 0.5, 0.0, 0.003, -0.003, *generator.uniform(-0.5, 0.5, 30)}
    if name == "Solarize":
        found |= {256.0, 127.5, *generator.uniform(0, 256, 10)}
    if name == "Posterize":
        found |= {0.0, 1.0, 2.0, 3.0}
    return np.array(sorted(found))


def hard_images(size: int) -> np.ndarray:
    """(9, size, size, 3): one colour; black and white; a single bright pixel; neighbouring levels; noise; few levels;
    a smooth picture; white; one channel empty."""
    generator = np.random.default_rng(size)
    images = np.zeros((9, size, size, 3), np.uint8)
    images[0] = (7, 77, 177)
    images[1, ::2] = 255
    images[2, size // 2, size // 3] = (255, 1, 2)
    images[3] = 100 + np.arange(size)[:, None, None] % 2
    images[4] = generator.integers(0, 256, images[4].shape)
    images[5] = generator.choice([0, 1, 128, 254, 255], images[5].shape, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    images[6] = clouds(generator, size, size)
    images[7] = 255
    images[8, :, :, 1:] = generator.integers(90, 110, (size, size, 2))
    return images


def assert_equal(images: np.ndarray, planned: ViewPlan) -> None:
    ours, theirs = (
        apply_operations(torch.from_numpy(images.copy()).to(DEVICE), planned, kernels).cpu().numpy()
        for kernels in ("triton", "pytorch")
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", EXCEPT_BLUR)
def test_every_strength(name: str) -> None:
    strong = strengths_of(name)[:, None]
    images = hard_images(16)[np.arange(len(strong)) % 9]
    assert_equal(images, whole_plan(np.full(strong.shape, NAMES.index(name)), strong))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 33, LARGEST])
@pytest.mark.parametrize("name", EXCEPT_BLUR)
def test_every_size_and_hard_image(name: str, size: int) -> None:
    images, strong = hard_images(size), strengths_of(name)
    chosen = strong[np.linspace(0, len(strong) - 1, len(images)).astype(int), None]
    assert_equal(images, whole_plan(np.full(chosen.shape, NAMES.index(name)), chosen))


def test_hue_of_every_257th_colour() -> None:
    colours = np.stack(np.unravel_index(np.arange(0, 256**3, 257), (256,) * 3), axis=-1).astype(np.uint8)
    images = colours[: 15 * 64 * 64].reshape(15, 64, 64, 3)
    assert_equal(images, whole_plan(np.full((15, 1), NAMES.index("Hue")), np.linspace(-0.5, 0.5, 15)[:, None]))


def test_all_levels_of_a_channel_beside_all_of_another() -> None:
    """Every operation on 64x64 pixels whose red and green are all pairs of every fourth level."""
    level = np.arange(0, 256, 4, dtype=np.uint8)
    red, green = np.meshgrid(level + 1, level + 3)
    image = np.stack((red, green, red ^ green), axis=-1)
    operations = np.arange(len(EXCEPT_BLUR))[:, None]
    strong = np.array([[strengths_of(name)[-3 % len(strengths_of(name))]] for name in EXCEPT_BLUR])
    assert_equal(np.repeat(image[None], len(operations), axis=0), whole_plan(operations, strong))


def test_many_steps_of_real_images() -> None:
    """In one batch, each view with five of its own; what some blur is left to tensors, in its place in the order."""
    generator = np.random.default_rng(1)
    images = pixels("tiny", 24)[:, :40, :40]
    operations = generator.integers(0, len(EXCEPT_BLUR), (len(images), 5))
    strong = np.vectorize(lambda place: generator.choice(strengths_of(NAMES[place])))(operations)
    assert_equal(images, whole_plan(operations, strong))
    blurred = generator.random(len(images)) < 0.5
    operations[blurred, 2], strong[blurred, 2] = NAMES.index("Blur"), 0.8
    assert_equal(images, whole_plan(operations, strong, kernel=5))


@pytest.mark.parametrize("backend", ["batched"] + ["dali"] * dali_is_installed())
def test_an_executor_makes_the_same_views_by_either(backend: Backend) -> None:
    """Of two sizes, one beyond the kernel, from crop to blur and solarize; with threads, which must not share Triton's
    interpreter."""
    images = array_set("clouds", 4)
    view = ViewConfig(jitter_probability=1.0, grayscale_probability=0.2, blur_probability=0.5, solarize_probability=0.5)
    indices, sizes = np.arange(4), (16, LARGEST + 1)
    plans = [plan(view, 1, stream, indices, images.heights, images.widths) for stream in ("source", "target")]

    def views(kernels: Kernels) -> list[np.ndarray]:
        data = DataConfig(backend=backend, kernels=kernels, threads=4)
        execute = make_executor(images, sizes, data, torch.device(DEVICE), 4)
        made = [view.cpu().numpy() for view in execute(indices, plans)]
        execute.close()
        return made

    for ours, theirs in zip(views("triton"), views("pytorch"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_larger_views_are_left_to_tensors() -> None:
    images = hard_images(LARGEST + 1)
    equalize = whole_plan(np.full((9, 1), NAMES.index("Equalize")), np.zeros((9, 1)))
    assert_equal(images, equalize)
    with pytest.raises(AssertionError, match="do not fit"):
        change_views(torch.from_numpy(images).to(DEVICE), torch.zeros(9, 1, FIELDS, dtype=torch.int32, device=DEVICE))


@pytest.mark.parametrize(("count", "steps"), [(0, 2), (3, 0)])
def test_nothing_to_do(count: int, steps: int) -> None:
    images = torch.from_numpy(hard_images(8)[:count]).to(DEVICE)
    before = images.clone()
    change_views(images, torch.full((count, steps, FIELDS), int(Step.SOLARIZE), dtype=torch.int32, device=DEVICE))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfResources(300_000, 232_448, "shared memory"), "shared memory"),
        (PermissionError(13, "Permission denied", "/cache"), "Permission denied: '/cache'"),
        (ImportError("launcher.so: failed to map segment"), "failed to map segment"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_kernel_that_does_not_start_is_an_error_that_says_what_to_do(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("soda_kernels.view_operations.kernel.change_view", {(9,): fail})
    equalize = whole_plan(np.full((9, 1), NAMES.index("Equalize")), np.zeros((9, 1)))
    with pytest.raises(TrainingError, match=rf"change_view \(8x8 pixels\) .*{words}.*; data.kernels=pytorch"):
        assert_equal(hard_images(8), equalize)


def test_an_earlier_failure_of_the_device_may_be_what_a_launch_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device", lambda _: nullcontext())
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H100")
    told = "the kernel k failed on NVIDIA H100, or work on the device before it did: illegal memory access"
    with pytest.raises(KernelFailed, match=told), starting("k", torch.device("cuda", 0)):
        raise RuntimeError("illegal memory access")


def test_triton_where_it_does_not_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.kernels: triton is not available here: .*; use auto or pytorch"):
        check_kernels("triton", torch.device("meta"))
    check_kernels("auto", torch.device("meta"))
