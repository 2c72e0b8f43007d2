"""Words stand beside the images and leave them alone."""

import numpy as np
import pytest
import torch

from soda_fast.synthesis.grid import image_grid
from soda_fast.synthesis.picture import Picture, Row, draw


def rows(*captions: str) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    return [Row(caption, torch.rand(2, 3, 8, 8, generator=generator)) for caption in captions]


def test_without_words_it_is_the_grid() -> None:
    picture = Picture(rows("", ""))
    assert np.array_equal(draw(picture), image_grid([row.images for row in picture.rows]))


def test_captions_and_title_leave_the_images_whole() -> None:
    picture = Picture(rows("source", "made from\nits z"), ("left", "right"))
    grid = image_grid([row.images for row in picture.rows])
    drawn = draw(picture, "a title that is much wider than two small images are, by far")
    top, left = (
        drawn.shape[0] - grid.shape[0],
        next(x for x in range(drawn.shape[1]) if np.array_equal(drawn[-grid.shape[0] :, x : x + grid.shape[1]], grid)),
    )
    assert top > 30
    assert left > 50
    for words in (drawn[:20], drawn[20:top, left:], drawn[top : top + 64, :left], drawn[top + 66 :, :left]):
        assert words.min() < 100
        assert (words == 255).mean() > 0.5


@pytest.mark.parametrize(("columns", "higher"), [((), False), (("a", "b"), True)])
def test_columns_take_room_only_where_there_are_some(columns: tuple[str, ...], higher: bool) -> None:
    assert (draw(Picture(rows("", ""), columns)).shape[0] > 130) is higher
