"""What a file's bytes are as an image: its size, its pixels, or why it has none. Pillow is the judge."""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soda_fast.store.structure import bit_depth, is_plain

# MPO is a JPEG with more pictures behind the first.
_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF"})
_ONE_PICTURE = frozenset({"WEBP", "TIFF"})
_GREY_16 = frozenset({"I", "I;16", "I;16B", "I;16L"})
_MODES = frozenset({"RGB", "RGBA", "CMYK", "L", "LA", "P", "1"})
_ORIENTATION = 0x0112
_START_BYTES = 32
# What Pillow raises on damaged files, found by damaging files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class PictureError(ValueError):
    """Bytes that are no usable image; the text is the cause, without a file's name."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself. height, width: pixels as stored. traits: what is unusual, in words."""

    height: int
    width: int
    traits: tuple[str, ...]


def read_header(source: bytes | Path) -> Header:
    """Size and kind of a file's content or of a file, without decoding. Raises PictureError; OSError for the file."""
    if isinstance(source, bytes):
        return _header(io.BytesIO(source))
    with source.open("rb") as file:
        return _header(file)


def _header(file: IO[bytes]) -> Header:
    start = file.read(_START_BYTES)
    file.seek(0)
    try:
        with Image.open(file) as image:
            _check_kind(image)
            return Header(image.height, image.width, tuple(_traits(image, start)))
    except PictureError:
        raise
    except _DAMAGE as error:
        raise PictureError(f"is no readable image ({_cause(start, error)})") from error


def decode(content: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB as torchvision's ImageFolder has it: Pillow's convert("RGB"), orientation tags ignored.

    One exception: 16-bit grey keeps its upper byte, as 16-bit colour does; Pillow alone would clip it to white.
    Raises PictureError.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_kind(image)
            if image.mode in _GREY_16:
                grey = (np.asarray(image).astype(np.int32) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            with warnings.catch_warnings():
                # A palette with several transparent entries: the colours are wanted, the transparency is not.
                warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
                return np.asarray(image.convert("RGB"))
    except PictureError:
        raise
    except _DAMAGE as error:
        raise PictureError(f"cannot be decoded ({_cause(content, error)})") from error


@dataclass(frozen=True)
class Inspected:
    """What an index keeps of an image. height, width: 0 if it is unreadable. cause: why it is; None if it is not."""

    height: int
    width: int
    plain: bool
    cause: str | None = None


def inspect(content: bytes) -> Inspected:
    """Header and structure; pixels are decoded only where the structure is unusual, which finds most damage."""
    try:
        header = read_header(content)
        plain = is_plain(content)
        if not plain:
            decode(content)
    except PictureError as error:
        return Inspected(0, 0, False, str(error))
    return Inspected(header.height, header.width, plain)


def make_plain(content: bytes) -> bytes:
    """The same picture as a file that every decoder reads alike: itself, or its pixels as PNG. Raises PictureError."""
    return content if is_plain(content) else encode_png(decode(content), compress_level=1)


def encode_png(pixels: NDArray[np.uint8], compress_level: int = 6) -> bytes:
    """(H, W, 3) RGB as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def _check_kind(image: Image.Image) -> None:
    if image.format not in _FORMATS:
        raise PictureError(f"is a {image.format} file; convert it to JPEG or PNG, or remove it")
    if image.format in _ONE_PICTURE and getattr(image, "n_frames", 1) > 1:
        raise PictureError(f"holds {getattr(image, 'n_frames', 1)} pictures; keep one of them, or remove it")
    # 32 bits in a TIFF have the mode that some versions of Pillow give to a PNG's 16.
    if image.mode not in _MODES | _GREY_16 or (image.format == "TIFF" and image.mode == "I"):
        raise PictureError(f"has pixels of Pillow's mode {image.mode}; convert it to 8-bit RGB, or remove it")


def _traits(image: Image.Image, content: bytes) -> list[str]:
    found = []
    if image.mode in ("L", "LA", "1") or image.mode in _GREY_16:
        found.append("grayscale")
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        found.append("alpha (dropped)")
    if image.mode == "P":
        found.append("palette")
    if image.mode == "CMYK":
        found.append("CMYK")
    if bit_depth(content) > 8:
        found.append("16-bit (upper byte kept)")
    if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) != 1:
        found.append("EXIF orientation (ignored)")
    if min(image.size) == 1:
        found.append("one pixel wide or high")
    return found


def _cause(content: bytes, error: BaseException) -> str:
    if not content:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return (str(error) or type(error).__name__).splitlines()[0]
