"""What happens to a view: distributions, and that nothing but the position decides."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from soda_fast.config import ViewConfig
from soda_fast.config.schema import ProbeViewConfig
from soda_fast.data.operations import OPERATIONS, SIGNED
from soda_fast.data.views import ViewPlan, central_square, clean_plan, plan, random_resized_crop

MANY = 20_000


def planned(view: ViewConfig, height: int = 32, width: int = 32, count: int = MANY, start: int = 0) -> ViewPlan:
    return plan(view, 5, "source", np.arange(start, start + count), np.full(count, height), np.full(count, width))


def rows_of(whole: ViewPlan, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {f.name: getattr(whole, f.name)[rows] for f in fields(whole) if f.name != "blur_kernel"}


def test_a_plan_belongs_to_its_position_not_to_its_batch() -> None:
    heights, widths = np.random.default_rng(0).integers(10, 200, (2, 96))
    whole = plan(ViewConfig(), 5, "source", np.arange(96), heights, widths)
    for rows in (np.arange(0, 96, 3), np.array([95, 0, 17]), np.array([40])):
        alone = plan(ViewConfig(), 5, "source", rows, heights[rows], widths[rows])
        for name, value in rows_of(whole, rows).items():
            np.testing.assert_array_equal(getattr(alone, name), value, err_msg=name)


def test_streams_and_seeds_give_other_plans() -> None:
    arguments = np.arange(64), np.full(64, 32), np.full(64, 32)
    plans = [plan(ViewConfig(), seed, stream, *arguments) for seed, stream in ((0, "a"), (0, "b"), (1, "a"))]
    assert len({tuple(p.top) for p in plans}) == 3
    assert len({tuple(p.operations.flat) for p in plans}) == 3


def test_positions_beyond_32_bits_do_not_repeat() -> None:
    low, high = planned(ViewConfig(), count=64), planned(ViewConfig(), count=64, start=2**32)
    assert (low.top != high.top).any()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 100), (375, 500), (400, 20), (8, 8)])
def test_boxes_lie_inside_the_image(height: int, width: int) -> None:
    boxes = planned(ViewConfig(), height, width)
    assert boxes.height.min() >= 1
    assert boxes.width.min() >= 1
    assert boxes.top.min() >= 0
    assert boxes.left.min() >= 0
    assert (boxes.top + boxes.height).max() <= height
    assert (boxes.left + boxes.width).max() <= width


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 100), (30, 20)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Quantiles of area, ratio and centre, ours of 20,000 and torchvision's of 4,000: within 3 percent of the range."""
    ours = planned(ViewConfig(crop_flip_probability=1.0), height, width)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    top, left, box_height, box_width = theirs.T
    for mine, other, span in (
        (ours.height * ours.width, box_height * box_width, height * width),
        (np.log(ours.width / ours.height), np.log(box_width / box_height), np.log(16 / 9)),
        (ours.top + ours.height / 2, top + box_height / 2, height),
        (ours.left + ours.width / 2, left + box_width / 2, width),
    ):
        levels = np.linspace(0.05, 0.95, 19)
        assert np.abs(np.quantile(mine, levels) - np.quantile(other, levels)).max() < 0.03 * span


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (7, 300), (90, 100), (1, 5)])
def test_the_fallback_is_torchvisions(height: int, width: int) -> None:
    """An area share of 4 never fits, so that all ten attempts fail."""
    draws = np.full((1, 10, 4), 0.5)
    box = random_resized_crop(draws, np.array([height]), np.array([width]), (4.0, 4.0), (3 / 4, 4 / 3))
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), [4.0, 4.0], [3 / 4, 4 / 3])
    assert tuple(box[:, 0]) == expected


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (5, 5), (47, 23)])
@pytest.mark.parametrize("ratio", [(0.01, 0.01), (100.0, 100.0), (0.001, 1000.0), (3.0, 100.0)])
@pytest.mark.parametrize("scale", [(1e-4, 1e-4), (0.08, 1.0), (1.0, 1.0)])
def test_every_box_has_pixels_inside_of_its_image(
    height: int, width: int, ratio: tuple[float, float], scale: tuple[float, float]
) -> None:
    """Of ratios more extreme than a row or a column of the image too, where torchvision rounds to nothing and fails."""
    drawn = planned(ViewConfig(crop_scale=scale, crop_ratio=ratio), height, width, count=200)
    for first, side, whole in ((drawn.top, drawn.height, height), (drawn.left, drawn.width, width)):
        assert first.min() >= 0
        assert side.min() >= 1
        assert (first + side).max() <= whole


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 8), (8, 5), (9, 4), (31, 64), (375, 500)])
def test_the_central_square_is_torchvisions(height: int, width: int) -> None:
    numbers = np.arange(height * width).reshape(height, width).astype(np.int32)
    cropped = np.asarray(F.center_crop(Image.fromarray(numbers), [min(height, width)] * 2))
    top, left, box_height, box_width = central_square(np.array([height]), np.array([width]))[:, 0]
    np.testing.assert_array_equal(numbers[top : top + box_height, left : left + box_width], cropped)


def test_probabilities_are_those_of_the_configuration() -> None:
    view = ViewConfig(crop_flip_probability=0.8, flip_probability=0.3, randaugment_probability=0.65)
    drawn = planned(view, 64, 100)
    square = (drawn.height == 64) & (drawn.width == 64) & (drawn.left == 18)
    assert abs(square.mean() - 0.2) < 0.01
    assert not drawn.flip[square].any(), "only cropped views are mirrored"
    assert abs(drawn.flip.mean() - 0.8 * 0.3) < 0.01
    # A view that RandAugment leaves alone has two Identities; so has one in 14 * 14 of the others.
    alone = (drawn.operations == 0).all(axis=1).mean()
    assert abs(alone - (0.35 + 0.65 / 196)) < 0.01
    augmented = drawn.operations[(drawn.operations != 0).any(axis=1)]
    shares = np.bincount(augmented.flat, minlength=14)[1:] / augmented.size
    assert shares.min() > 0.06
    assert shares.max() < 0.085
    signed = np.isin(drawn.operations, [OPERATIONS.index(name) for name in SIGNED])
    assert abs((drawn.strengths[signed] < 0).mean() - 0.5) < 0.01
    # Independent: crop and RandAugment, and the operations of one view.
    assert abs(np.corrcoef(square, (drawn.operations == 0).all(axis=1))[0, 1]) < 0.03
    assert abs(np.corrcoef(augmented.T)[0, 1]) < 0.03


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certain_things_are_certain(probability: float) -> None:
    view = ViewConfig(
        crop_flip_probability=probability, flip_probability=probability, randaugment_probability=probability
    )
    drawn = planned(view, 64, 100)
    assert (drawn.flip == bool(probability)).all()
    if not probability:
        assert (drawn.operations == 0).all()
        assert (drawn.width == 64).all()


def test_no_operations_is_a_plan_of_no_columns() -> None:
    assert planned(ViewConfig(randaugment_num_ops=0), count=3).operations.shape == (3, 0)
    assert planned(ViewConfig(randaugment_num_ops=5), count=3).operations.shape == (3, 5)
    assert planned(ViewConfig(randaugment_num_ops=5)).operations.max() == len(OPERATIONS) - 1


def test_clean_plan_and_probe_view() -> None:
    clean = clean_plan(np.array([10, 20]), np.array([30, 20]))
    assert (clean.left.tolist(), clean.top.tolist(), clean.width.tolist()) == ([10, 0], [0, 0], [10, 20])
    assert not clean.flip.any()
    probe = planned(ProbeViewConfig().as_view(), 64, 100)
    assert abs(((probe.left == 18) & (probe.width == 64)).mean() - 0.35) < 0.01
    assert (probe.operations == 0).all()
