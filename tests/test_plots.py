"""Pictures of an evaluation where there is little to draw, or while a training still writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from soda_fast.plots import map_features, read_accuracies


def test_lines_that_are_not_whole_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"images_seen": seen, "loss": 0.1, "knn-dino/z": 0.5}) for seen in (12, 24)]
    path.write_text(f"{lines[0]}\n{lines[1]}\n{lines[1][:-9]}")
    assert read_accuracies(path) == {"knn-dino/z": [(12, 0.5), (24, 0.5)]}
    assert read_accuracies(tmp_path / "absent.jsonl") == {}


def unit_rows(images: int, columns: int, spread: float) -> np.ndarray:
    rows = 1 + spread * np.random.default_rng(0).normal(size=(images, columns))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "columns", "spread"), [(1, 5, 1.0), (9, 1, 1.0), (9, 5, 0.0), (9, 5, 1e-8), (2, 2, 0.0)]
)
def test_what_no_plane_shows_has_no_map(images: int, columns: int, spread: float) -> None:
    assert map_features(unit_rows(images, columns, spread)) == {}


@pytest.mark.parametrize(("images", "columns", "spread"), [(2, 2, 1.0), (3, 5, 1.0), (9, 2, 1.0), (9, 5, 1e-5)])
def test_few_images_have_one(images: int, columns: int, spread: float) -> None:
    maps = map_features(unit_rows(images, columns, spread))
    assert maps.keys() == {"PCA", "t-SNE"}
    assert all(points.shape == (images, 2) and np.isfinite(points).all() for points in maps.values())
