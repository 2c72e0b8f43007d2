"""What tells one set of images from another."""

from pathlib import Path

import numpy as np
from PIL import Image

from soda_fast.data.fingerprint import fingerprint, listing_fingerprint
from tests.data.pictures import array_set, clouds, encode, file_set


def test_order_and_pixels_count() -> None:
    images = array_set("digits")
    other = images.subset(np.arange(len(images))[::-1])
    assert listing_fingerprint(images) != listing_fingerprint(other)
    assert listing_fingerprint(images) == listing_fingerprint(array_set("digits"))
    assert fingerprint(images) != listing_fingerprint(images)


def test_an_image_that_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    """Another has stood in for it (data.on_unreadable)."""
    content = encode(Image.fromarray(clouds(np.random.default_rng(0), 20, 20)), "JPEG")
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
    whole = file_set(tmp_path / "whole", {"a.jpg": content, "b.jpg": content})
    damaged = file_set(tmp_path / "damaged", {"a.jpg": content, "b.jpg": content[:-50]})
    assert len(fingerprint(damaged)) == 64
    assert fingerprint(damaged) != fingerprint(whole)
