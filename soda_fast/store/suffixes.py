"""Which files are images, by their names' ends.

JPEG and PNG go to the backend as they are. WebP, BMP and TIFF are decoded by Pillow whatever the backend, DALI gets the
pixels; so all backends see the same, at Pillow's speed where the images are not resident. Of what a TIFF or WebP holds,
one picture of 8 or 16 bits a channel is read; several are refused.
"""

from collections.abc import Sequence

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
OTHERS = frozenset(
    {".gif", ".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".tga", ".dng"}
)
"""Images too, which are not read: no data set is taken without them as if it had never had them."""
LISTED = ".jpg, .jpeg, .png, .webp, .bmp, .tif or .tiff"
_NAMED = 3


def refuse_others(place: str, found: Sequence[str]) -> None:
    """ValueError if there are files with suffixes of OTHERS. found: their names."""
    if found:
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        raise ValueError(
            f"{place}: {len(found):,} images of formats that are not read ({', '.join(sorted(found)[:_NAMED])}{more}); "
            "convert them to PNG or JPEG, or remove them"
        )
