"""The colours of contrastive recipes: ours on whole batches against torchvision on Pillow images.

| operation | tolerance, in grey levels |
| --- | --- |
| brightness, contrast, saturation (jitter's factors), hue, grayscale, solarize | 0 |
| blur | 1 at most, on fewer than 1 in 1,000 values: float32 sums in another order |
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter, GaussianBlur
from torchvision.transforms import functional as F

from soda_fast.config import ConfigError, ViewConfig, config_from_tree
from soda_fast.data.operations import NAMES
from soda_fast.data.pixel_operations import apply_operations
from soda_fast.data.reference import execute
from soda_fast.data.views import ViewPlan, describe_view, plan
from tests.data.pictures import pixels

CONTRASTIVE = ViewConfig(
    randaugment_num_ops=0, jitter_probability=0.8, grayscale_probability=0.2, blur_probability=0.5,
    solarize_probability=0.2,
)  # fmt: skip
ALL_COLOURS = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def one_operation(name: str, strengths: np.ndarray, size: int, kernel: int = 1) -> ViewPlan:
    count = len(strengths)
    zero, whole = np.zeros(count, np.int64), np.full(count, size)
    operations = np.full((count, 1), NAMES.index(name))
    return ViewPlan(zero, zero, whole, whole, np.zeros(count, bool), operations, strengths[:, None], kernel)


def both(images: np.ndarray, planned: ViewPlan) -> tuple[np.ndarray, np.ndarray]:
    """Ours and torchvision's."""
    ours = apply_operations(torch.from_numpy(images.copy()), planned).numpy()
    theirs = [
        np.asarray(execute(Image.fromarray(image), planned, row, images.shape[1])) for row, image in enumerate(images)
    ]
    return ours, np.stack(theirs)


def planned(view: ViewConfig, count: int, size: int = 32) -> ViewPlan:
    return plan(view, 5, "source", np.arange(count), np.full(count, size), np.full(count, size))


@pytest.mark.parametrize("turn", [0.5, 0.37, 0.1, 0.003, -0.003, -0.25, -0.5, 0.0])
def test_hue_of_every_sixth_colour_and_of_all_greys_is_torchvisions(turn: float) -> None:
    """In a square image, because views are square; the stride has no common factor with 256, so all levels occur."""
    colours = np.concatenate((ALL_COLOURS[:: 5 * 7], ALL_COLOURS[:: 256 * 257], ALL_COLOURS[:: 256 * 256 + 257]))
    side = int(len(colours) ** 0.5)
    image = colours[-side * side :].reshape(1, side, side, 3)
    np.testing.assert_array_equal(*both(image, one_operation("Hue", np.array([turn]), side)))


@pytest.mark.parametrize("images", ["tiny", "clouds", "noise", "coil"])
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Hue", "Grayscale", "Solarize"])
def test_colours_equal_torchvision_in_every_grey_level(name: str, images: str) -> None:
    size, generator = 32, np.random.default_rng(0)
    before = pixels(images)[:, :size, :size]
    strengths = {
        "Hue": generator.uniform(-0.5, 0.5, len(before)),
        "Grayscale": np.zeros(len(before)),
        "Solarize": generator.uniform(0, 256, len(before)),
    }.get(name, generator.uniform(-1, 1, len(before)))
    np.testing.assert_array_equal(*both(before, one_operation(name, strengths, size)))


@pytest.mark.parametrize(
    ("images", "size", "kernel"), [("tiny", 64, 3), ("clouds", 48, 9), ("noise", 33, 5), ("coil", 96, 23)]
)
def test_blur_is_torchvisions(images: str, size: int, kernel: int) -> None:
    before = pixels(images)[:16, :size, :size]
    sigmas = np.random.default_rng(0).uniform(0.1, 2.0, len(before))
    ours, theirs = both(before, one_operation("Blur", sigmas, size, kernel))
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= 1
    assert off.mean() < 1e-3
    assert (ours != before).mean() > 0.2, "it does something"


def test_jitter_is_drawn_as_torchvisions_is() -> None:
    """Ranges of the factors, and the order: each change comes first in a quarter of the views."""
    view = ViewConfig(
        randaugment_num_ops=0, jitter_probability=1.0, jitter_brightness=0.4, jitter_contrast=1.5,
        jitter_saturation=0.0, jitter_hue=0.1,
    )  # fmt: skip
    drawn = planned(view, 20_000)
    theirs = ColorJitter(0.4, 1.5, 0.0, 0.1)
    for name, interval in (("Brightness", theirs.brightness), ("Contrast", theirs.contrast), ("Hue", theirs.hue)):
        chosen = drawn.operations == NAMES.index(name)
        assert (chosen.sum(axis=1) == 1).all()
        found = drawn.strengths[chosen] + (0 if name == "Hue" else 1)
        np.testing.assert_allclose((found.min(), found.max()), interval, atol=1e-3)
        assert abs(found.mean() - np.mean(interval)) < 0.01
        assert abs(chosen.mean(axis=0) - 0.25).max() < 0.015
    assert theirs.saturation is None
    assert not (drawn.operations == NAMES.index("Color")).any()


def test_probabilities_are_those_of_the_configuration_and_independent() -> None:
    drawn = planned(CONTRASTIVE, 20_000)
    happened = {
        name: (drawn.operations == NAMES.index(name)).any(axis=1) for name in ("Hue", "Grayscale", "Blur", "Solarize")
    }
    for (name, rate), probability in zip(happened.items(), (0.8, 0.2, 0.5, 0.2), strict=True):
        assert abs(rate.mean() - probability) < 0.012, name
    assert abs(np.corrcoef(np.stack(list(happened.values())))[np.triu_indices(4, 1)]).max() < 0.03
    sigma = drawn.strengths[drawn.operations == NAMES.index("Blur")]
    assert sigma.min() > 0.1
    assert sigma.max() < 2.0
    assert abs(sigma.mean() - 1.05) < 0.02
    # After RandAugment's none come jitter's four, then the others in the order that the configuration states.
    assert drawn.operations.shape == (20_000, 7)
    assert set(np.unique(drawn.operations[:, 4])) == {0, NAMES.index("Grayscale")}


def test_what_never_happens_leaves_no_trace_in_the_plan() -> None:
    """Plans of configurations from before these operations existed are what they were."""
    plain, jittered = planned(ViewConfig(), 64), planned(ViewConfig(jitter_probability=0.5), 64)
    assert plain.operations.shape == (64, 2)
    np.testing.assert_array_equal(jittered.operations[:, :2], plain.operations)
    np.testing.assert_array_equal(jittered.left, plain.left)


def test_the_whole_recipe_is_torchvisions() -> None:
    """All operations of the recipe one after the other. Solarizing may turn blur's one level into a whole inversion."""
    size = 48
    before = pixels("clouds")[:, :size, :size]
    view = replace(CONTRASTIVE, crop_flip_probability=0.0, blur_kernel=5)
    ours, theirs = both(before, planned(view, len(before), size))
    assert (np.abs(ours.astype(int) - theirs) > 0).mean() < 1e-3
    assert (ours != before).mean() > 0.5


def test_the_reference_is_torchvisions_own() -> None:
    """The judge of all this calls what ColorJitter and GaussianBlur call."""
    image = Image.fromarray(pixels("clouds")[0][:32, :32])
    torch.manual_seed(0)
    order, brightness, contrast, saturation, hue = ColorJitter.get_params(
        (0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)
    )
    torch.manual_seed(0)
    expected = ColorJitter(0.4, 0.4, 0.2, 0.1)(image)
    names, strengths = ("Brightness", "Contrast", "Color", "Hue"), (brightness - 1, contrast - 1, saturation - 1, hue)
    made = image
    for place in order.tolist():
        made = execute(made, one_operation(names[place], np.array([strengths[place]]), 32), 0, 32)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))
    blurred = GaussianBlur(5, (0.7, 0.7))(image)
    np.testing.assert_array_equal(
        np.asarray(execute(image, one_operation("Blur", np.array([0.7]), 32, 5), 0, 32)), np.asarray(blurred)
    )
    assert np.array_equal(
        np.asarray(F.solarize(image, 128)),
        np.asarray(execute(image, one_operation("Solarize", np.array([128.0]), 32), 0, 32)),
    )


@pytest.mark.parametrize("kernel", [4, 65])
def test_a_blur_that_cannot_be_is_refused(kernel: int) -> None:
    view = {"blur_probability": 0.5, "blur_kernel": kernel}
    with pytest.raises(ConfigError, match=rf"data.source.blur_kernel is {kernel}; it must be odd and below 64"):
        config_from_tree({"train": {"images": 1}, "data": {"source": view}})


def test_a_recipe_in_words() -> None:
    words = describe_view(CONTRASTIVE)
    assert "colour jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8; grayscale with probability 0.2; blur" in words
    assert "jitter" not in describe_view(ViewConfig())
