"""Picture grids."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from soda_fast.synthesis.grid import image_grid, save_png


def images(num: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def as_bytes(image: Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("side", "cell"), [(8, 64), (28, 84), (32, 64), (63, 126), (64, 64), (100, 100)])
def test_size(side: int, cell: int) -> None:
    grid = image_grid([images(5, side)] * 3)
    assert grid.dtype == np.uint8
    assert grid.shape == (3 * cell + 2 * 2, 5 * cell + 4 * 2, 3)


def test_pixels_become_squares_in_their_place() -> None:
    rows = [images(4, 16, seed=1), images(4, 16, seed=2)]
    grid = image_grid(rows)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            cell = grid[i * 66 : i * 66 + 64, j * 66 : j * 66 + 64]
            assert np.array_equal(cell, np.kron(as_bytes(image), np.ones((4, 4, 1), np.uint8)))
    assert (grid[64:66] == 255).all()
    assert (grid[:, 64:66] == 255).all()


def test_rows_of_different_sizes() -> None:
    grid = image_grid([images(2, 32), images(2, 48)])
    assert grid.shape == (2 * 96 + 2, 2 * 96 + 2, 3)
    assert np.array_equal(grid[:96:3, :96:3], as_bytes(images(2, 32)[0]))
    centred = image_grid([images(1, 100), images(1, 64)])
    assert np.array_equal(centred[102 + 18 : 102 + 82, 18:82], as_bytes(images(1, 64)[0]))
    assert (centred[102:120] == 255).all()


def test_images_that_are_not_square() -> None:
    assert image_grid([torch.rand(2, 3, 64, 100)]).shape == (64, 202, 3)
    assert image_grid([torch.rand(2, 3, 16, 40)]).shape == (64, 322, 3)


def test_values_outside_are_cut_off() -> None:
    picture = torch.tensor([-0.1, 0.0, 1.0, 1.2])[:, None, None, None].expand(4, 3, 64, 64)
    assert image_grid([picture])[0, ::66, 0].tolist() == [0, 0, 255, 255]


def test_png_holds_the_grid(tmp_path: Path) -> None:
    grid = image_grid([images(3, 8)])
    save_png(tmp_path / "grid.png", grid)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), grid)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        ([torch.rand(2, 1, 8, 8)], "row 0 of the grid has the shape"),
        ([torch.rand(0, 3, 8, 8)], "row 0 of the grid has the shape"),
        ([torch.rand(2, 3, 8, 8), torch.rand(3, 3, 8, 8)], "row 1 of the grid has 3 images, row 0 has 2"),
        ([torch.full((1, 3, 8, 8), math.nan)], "row 0 of the grid has NaN"),
    ],
)
def test_mistakes_are_named(rows: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(rows)
