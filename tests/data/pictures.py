"""Images for the tests of the data path: real ones where they lie beside the repository, made ones always."""

import io
import os
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soda_fast.data.digits import load_digits
from soda_fast.data.executor import dali_is_installed
from soda_fast.data.image_set import ArrayImages, FileImages

REAL = Path(os.environ.get("SODA_FAST_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TINY_IMAGENET = "tiny-imagenet-100of200-64px.tar.xz"
needs_dali = pytest.mark.skipif(not dali_is_installed(), reason="DALI is not installed")
COIL = "coil-100-30objects-128px-rgb.tar.xz"
CIFAR_JPEG = "cifar10-jpeg.tar.xz"
CIFAR_LOSSLESS = "cifar10-lossless-first4000.tar"
CIFAR_LABELS = "cifar10-lossless-first4000.labels.tsv"


@cache
def real_files(archive: str, count: int) -> tuple[bytes, ...]:
    """The first images of an archive, as they are in it; skips the test where there is no such archive."""
    if not (REAL / archive).is_file():
        pytest.skip(f"no {archive} beside the repository")
    files: list[bytes] = []
    with tarfile.open(REAL / archive) as tar:
        for member in tar:
            if member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                files.append(tar.extractfile(member).read())
            if len(files) == count:
                break
    return tuple(files)


@cache
def pixels(name: str, count: int = 64) -> NDArray[np.uint8]:
    """(count, H, W, 3) of "digits" (8x8), "clouds" (48x64), "noise" (37x61), "tiny" (64x64), "coil" (128x128)."""
    generator = np.random.default_rng(0)
    if name == "digits":
        return load_digits()[0].pixels[:count]
    if name == "clouds":
        return np.stack([clouds(generator, 48, 64) for _ in range(count)])
    if name == "noise":
        return generator.integers(0, 256, (count, 37, 61, 3), dtype=np.uint8)
    files = real_files({"tiny": TINY_IMAGENET, "coil": COIL}[name], count)
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def clouds(generator: np.random.Generator, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth picture of random colours."""
    coarse = Image.fromarray(generator.integers(0, 256, (4, 5, channels), dtype=np.uint8).squeeze())
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def array_set(name: str, count: int = 64) -> ArrayImages:
    """`pixels` as an image set, labelled 0, 1, 2, 0, ..."""
    return ArrayImages(pixels(name, count), np.arange(count) % 3, f"{name} image")


def file_set(folder: Path, files: dict[str, bytes]) -> FileImages:
    """Write files and make an image set of them, in their order; sizes as Pillow reads them."""
    sizes = []
    for name, content in files.items():
        (folder / name).write_bytes(content)
        width, height = Image.open(io.BytesIO(content)).size
        sizes.append((height, width))
    heights, widths = np.array(sizes, np.int64).T
    paths = [folder / name for name in files]
    return FileImages(paths, np.zeros(len(files), np.int64), heights.copy(), widths.copy())


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
