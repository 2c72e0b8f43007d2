"""Files that hold images: which there are, and what their headers say."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.dataset import RGB
from soda_fast.data.image_set import FileImages, ImageSet, UnreadableImage
from soda_fast.store.pictures import PictureError, read_header
from soda_fast.store.suffixes import OTHERS, SUFFIXES, refuse_others

_SCAN_THREADS = 8  # headers on a network file system wait rather than compute
_MEASURED_IMAGES = 2048


def find_images(folder: Path) -> list[Path]:
    """Image files anywhere under a folder, sorted; hidden files and folders and what is no image are left out.

    Links to folders are followed, to each folder once: one that leads back would give its images again and again.

    Raises:
        ValueError: a folder cannot be read, or there are images of formats that are not; names them.
    """
    found: list[Path] = []
    others: list[str] = []
    seen = {_identity(folder)}

    def is_new(path: Path) -> bool:
        known, identity = len(seen), _identity(path)
        seen.add(identity)
        return len(seen) > known

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and is_new(Path(parent, name))]
        for name in files:
            suffix = "" if name.startswith(".") else Path(name).suffix.lower()
            if suffix in SUFFIXES:
                found.append(Path(parent, name))
            elif suffix in OTHERS:
                others.append(name)
    refuse_others(str(folder), others)
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror}); restore or remove it") from error


def scan(paths: Sequence[Path], labels: NDArray[np.int64]) -> FileImages:
    """Read all headers; of an image whose header cannot be understood, height and width are 0.

    Raises:
        ValueError: a file cannot be read; names it.
    """
    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        sizes = np.array(list(pool.map(_size, paths, chunksize=64)), np.int64).reshape(-1, 2)
    return FileImages(paths, labels, sizes[:, 0].copy(), sizes[:, 1].copy())


def _size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, as stored."""
    try:
        header = read_header(path)
    except PictureError:
        return 0, 0
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); restore or remove the file") from error
    return header.height, header.width


def measure(images: ImageSet, skip_unreadable: bool = False) -> tuple[RGB, RGB]:
    """Mean and deviation of the channels over up to 2,048 evenly spaced images, each counting the same.

    Args:
        images: of the training split.
        skip_unreadable: leave out images that cannot be decoded.

    Raises:
        ValueError: an image cannot be decoded, or a channel does not vary.
    """
    count = min(len(images), _MEASURED_IMAGES)
    chosen = np.arange(count) * len(images) // count

    def moments(index: int) -> NDArray[np.float64] | None:
        try:
            return _moments(images.decode(index))
        except UnreadableImage:
            if not skip_unreadable:
                raise
            return None

    with ThreadPoolExecutor(_SCAN_THREADS) as pool:
        # map keeps the order, so the sums are added in one order whatever the threads do.
        found = [both for both in pool.map(moments, chosen.tolist()) if both is not None]
    if not found:
        raise ValueError("data.root: not one training image can be decoded; soda-fast prepare --check names all")
    mean, square = np.array(found).mean(axis=0)
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
