"""DCI: its equations on importances that are known, and forests on codes that are known."""

import numpy as np
import pytest

from soda_fast.data.shapes import FACTORS, draw_factors, render_shapes
from soda_fast.evaluation.dci import completeness, dci, disentanglement


def test_scores_of_known_importances() -> None:
    perfect = np.eye(3)
    assert (disentanglement(perfect), completeness(perfect)) == (pytest.approx(1), pytest.approx(1))
    even = np.full((4, 3), 0.25)
    assert (disentanglement(even), completeness(even)) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    # Two features share one factor evenly: disentangled, but that factor is half complete (1 - log 2 / log 4).
    shared = np.array([[1.0, 0], [0, 0.5], [0, 0.5], [0, 0]])
    assert disentanglement(shared) == pytest.approx(1)
    assert completeness(shared) == pytest.approx((1 + 0.5) / 2)
    # One feature tells of two factors, 1 to 3; one of nothing.
    both = np.array([[0.25, 0.75], [0, 0]])
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert disentanglement(both) == pytest.approx(1 - entropy)
    assert completeness(both) == pytest.approx(1)


def test_a_single_feature_is_complete() -> None:
    """What tells of a factor at all is that feature; what it tells of is another question."""
    importance = np.array([[1.0, 1, 0]])
    assert completeness(importance) == pytest.approx(2 / 3)
    assert disentanglement(importance) == pytest.approx(1 - np.log(2) / np.log(3))
    assert disentanglement(importance.T) == pytest.approx(1)
    factors, asked = np.split(draw_factors(0, 100), [60])
    scores = dci(factors[:, :1], factors, asked[:, :1], asked, seed=0)
    assert np.isfinite([scores.disentanglement, scores.completeness, scores.error]).all()


def test_forests_find_the_factors_out() -> None:
    factors, asked = np.split(draw_factors(0, 500)[:, :3], [300])
    same = dci(factors[:, ::-1] * 5, factors, asked[:, ::-1] * 5, asked, seed=0)
    assert same.disentanglement > 0.98
    assert same.completeness > 0.98
    assert same.error < 0.1
    assert dci(factors[:, ::-1] * 5, factors, asked[:, ::-1] * 5, asked, seed=2**32) == same
    mixing = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    mixed = dci(factors @ mixing, factors, asked @ mixing, asked, seed=0)
    assert mixed.disentanglement < 0.6
    assert 0.1 < mixed.error < 0.7
    noise = np.random.default_rng(0)
    nothing = dci(noise.normal(size=(300, 3)), factors, noise.normal(size=(200, 3)), asked, seed=0)
    assert nothing.disentanglement < 0.05
    assert nothing.error > 0.95


def test_shapes_show_their_factors() -> None:
    base = np.full((1, len(FACTORS)), 0.5)
    for number, factor in enumerate(FACTORS):
        low, high = base.copy(), base.copy()
        low[0, number], high[0, number] = 0.1, 0.9
        a, b = (render_shapes(some, 32)[0].astype(float) for some in (low, high))
        ink = [image.sum() for image in (a, b)]
        if factor in ("red", "green", "blue"):
            channel = ("red", "green", "blue").index(factor)
            others = [c for c in range(3) if c != channel]
            assert b[..., channel].sum() > 2 * a[..., channel].sum()
            assert np.array_equal(a[..., others], b[..., others])
        elif factor in ("size", "form"):
            assert ink[1] > 1.3 * ink[0]
        else:
            axis = 1 if factor == "horizontal" else 0
            centres = [(image.sum(axis=(2, 1 - axis)) * np.arange(32)).sum() / image.sum() for image in (a, b)]
            assert centres[1] - centres[0] == pytest.approx(0.8 * 0.4 * 32, abs=0.3)
            assert ink[1] == pytest.approx(ink[0], rel=0.02)


def test_shapes_lie_inside_and_belong_to_their_numbers() -> None:
    extremes = np.array([[a, b, 1, 1, 1, 1, 1] for a in (0, 1) for b in (0, 1)], float)
    images = render_shapes(extremes, 32)
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert border.max() == 0
    assert np.array_equal(draw_factors(3, 2), draw_factors(3, 7)[:2])
    assert not np.array_equal(draw_factors(4, 2), draw_factors(3, 2))
