"""Grids of images, and how pictures become files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from soda_fast.files import write_atomically

_VISIBLE_SIDE = 64  # pixels; smaller images are enlarged to at least this
SEPARATOR = 2  # pixels between cells
_SEPARATOR_GREY = 255


def image_grid(rows: Sequence[Tensor]) -> NDArray[np.uint8]:
    """One picture of several rows of images, thin white lines between them.

    Images with a side below 64 are enlarged by a whole factor, each pixel becoming a square. Rows may differ in size
    (source and target views do): smaller images are enlarged as far as the cell allows and centred in it.

    Args:
        rows: each (N, 3, H, W) floating point in [0, 1] (values outside are cut off), of the same N.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: no rows, rows of different lengths, shapes that are not images, or NaN.
    """
    _check_rows(rows)
    sizes = [(row.shape[2] * _enlargement(row), row.shape[3] * _enlargement(row)) for row in rows]
    cell_height, cell_width = max(h for h, _ in sizes), max(w for _, w in sizes)
    step_y, step_x = cell_height + SEPARATOR, cell_width + SEPARATOR
    grid = np.full((len(rows) * step_y - SEPARATOR, len(rows[0]) * step_x - SEPARATOR, 3), _SEPARATOR_GREY, np.uint8)
    for i, row in enumerate(rows):
        factor = min(cell_height // row.shape[2], cell_width // row.shape[3])
        for j, image in enumerate(_to_bytes(row)):
            cell = image.repeat(factor, axis=0).repeat(factor, axis=1)
            top = i * step_y + (cell_height - cell.shape[0]) // 2
            left = j * step_x + (cell_width - cell.shape[1]) // 2
            grid[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return grid


def save_png(path: Path, grid: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) uint8 picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="PNG")
    write_atomically(Path(path), buffer.getvalue())


def _enlargement(row: Tensor) -> int:
    """The whole factor that brings the shorter side to 64 or more."""
    return max(1, -(-_VISIBLE_SIDE // min(row.shape[2:])))


def _to_bytes(row: Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) in [0, 1] => (N, H, W, 3) uint8."""
    pixels = (row.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    array: NDArray[Any] = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return array


def _check_rows(rows: Sequence[Tensor]) -> None:
    if len(rows) == 0:
        raise ValueError("a grid needs at least one row of images")
    for i, row in enumerate(rows):
        if row.ndim != 4 or row.shape[1] != 3 or 0 in row.shape:
            raise ValueError(f"row {i} of the grid has the shape {tuple(row.shape)}: give images (N, 3, H, W)")
        if len(row) != len(rows[0]):
            raise ValueError(f"row {i} of the grid has {len(row)} images, row 0 has {len(rows[0])}: give equal numbers")
        if not torch.isfinite(row).all():
            raise ValueError(f"row {i} of the grid has NaN or infinity: the model that made it has diverged")
