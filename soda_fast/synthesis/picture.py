"""A picture for people: rows of images, and what they are in words beside and above them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from soda_fast.synthesis.grid import SEPARATOR, image_grid

_FONT_SIZE = 13
_MARGIN = 6  # pixels around words
_PAPER, _INK = 255, 0


@dataclass(frozen=True)
class Row:
    """Images side by side, (N, 3, H, W) in [0, 1], and what they are, in one line or more; "" for nothing."""

    caption: str
    images: Tensor


@dataclass(frozen=True)
class Picture:
    """Rows of equally many images; columns: what stands above each column, or nothing."""

    rows: Sequence[Row]
    columns: Sequence[str] = ()


def draw(picture: Picture, title: str = "") -> NDArray[np.uint8]:
    """(height, width, 3) uint8: the grid, captions to its left and above it, the title on top.

    Raises:
        ValueError: see `image_grid`.
    """
    grid = image_grid([row.images for row in picture.rows])
    font = ImageFont.load_default(_FONT_SIZE)
    left = max(_width(row.caption, font) for row in picture.rows)
    top = [_height(title, font), max((_height(text, font) for text in picture.columns), default=0)]
    width = max(left + grid.shape[1], _width(title, font))
    paper = Image.new("RGB", (width, sum(top) + grid.shape[0]), (_PAPER,) * 3)
    paper.paste(Image.fromarray(grid), (left, sum(top)))
    ink = ImageDraw.Draw(paper)
    ink.multiline_text((_MARGIN, top[0] / 2), title, _INK_RGB, font, anchor="lm")
    for centre, row in zip(_centres(grid.shape[0], len(picture.rows)), picture.rows, strict=True):
        ink.multiline_text((left - _MARGIN, sum(top) + centre), row.caption, _INK_RGB, font, anchor="rm", align="right")
    for centre, text in zip(_centres(grid.shape[1], len(picture.rows[0].images)), picture.columns):
        ink.multiline_text((left + centre, top[0] + top[1] / 2), text, _INK_RGB, font, anchor="mm", align="center")
    return np.asarray(paper)


_INK_RGB = (_INK,) * 3


def _centres(length: int, cells: int) -> list[float]:
    """The middle of each cell of a grid along one side."""
    step = (length + SEPARATOR) // cells
    return [number * step + (step - SEPARATOR) / 2 for number in range(cells)]


_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _width(text: str, font: _Font) -> int:
    return _box(text, font)[0]


def _height(text: str, font: _Font) -> int:
    return _box(text, font)[1]


def _box(text: str, font: _Font) -> tuple[int, int]:
    """Pixels that words take with the margin around them; none for no words."""
    if not text:
        return 0, 0
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right - min(left, 0)) + 2 * _MARGIN, round(bottom - min(top, 0)) + 2 * _MARGIN
