"""Files that hold images: which there are, and what their headers say."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soda_fast.data.dataset import RGB
from soda_fast.data.image_set import FileImages, ImageSet

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
# What DALI decodes to the RGB that Pillow decodes it to. MPO is a JPEG with more pictures behind the first.
_FORMATS = frozenset({"JPEG", "MPO", "PNG"})
_MODES = frozenset({"RGB", "RGBA", "CMYK", "L", "LA", "P", "1"})
_SCAN_THREADS = 8  # headers on a network file system wait rather than compute
_MEASURED_IMAGES = 2048


def find_images(folder: Path) -> list[Path]:
    """Image files anywhere under a folder, sorted; hidden files and folders and other suffixes are left out."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def scan(paths: Sequence[Path], labels: NDArray[np.int64]) -> FileImages:
    """Read all headers.

    Raises:
        ValueError: a file is unreadable, or is of a kind that backends decode differently; names the file.
    """
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        sizes = np.array(list(pool.map(_header, paths, chunksize=64)), np.int64).reshape(-1, 2)
    return FileImages(paths, labels, sizes[:, 0].copy(), sizes[:, 1].copy())


def _header(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, as stored."""
    try:
        with Image.open(path) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: is no readable image ({str(error).splitlines()[0]}); replace or remove the file"
        ) from error
    if kind not in _FORMATS:
        raise ValueError(f"{path}: is a {kind} file; convert it to JPEG or PNG, or remove it")
    if mode not in _MODES:
        raise ValueError(f"{path}: has pixels of Pillow's mode {mode}; convert it to 8-bit RGB, or remove it")
    return height, width


def measure(images: ImageSet) -> tuple[RGB, RGB]:
    """Mean and deviation of the channels over up to 2,048 evenly spaced images, each counting the same.

    Raises:
        ValueError: an image cannot be decoded, or a channel does not vary.
    """
    count = min(len(images), _MEASURED_IMAGES)
    chosen = np.arange(count) * len(images) // count
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        # map keeps the order, so the sums are added in one order whatever the threads do.
        moments = np.array(list(pool.map(lambda index: _moments(images.decode(int(index))), chosen)))
    mean, square = moments.mean(axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if std.min() < 1e-4:
        raise ValueError("data.std: a channel of the training images does not vary; give data.mean and data.std")
    return _rounded(mean), _rounded(std)


def _moments(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(2, 3): mean and mean square of the channels."""
    unit = pixels.reshape(-1, 3) / 255.0
    return np.stack((unit.mean(axis=0), (unit**2).mean(axis=0)))


def _rounded(values: NDArray[np.float64]) -> RGB:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
