"""Small sets of images of one size: decoded once, into a file that all processes of a machine map into memory.

The operating system keeps one copy of the pages, however many processes read them, and the next run finds them decoded.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from soda_fast.data.cache import cached, reading, stamps
from soda_fast.data.cifar import OFFICIAL, cifar_sources, load_cifar
from soda_fast.data.image_set import ArrayImages, DecodedImages, EncodedImages, ImageSet, UnreadableImage
from soda_fast.store.build import require_space

_PIXELS, _UNREADABLE = "pixels.npy", "unreadable.npy"
_SPLITS = ("train", "test")
CIFAR_BYTES = 60_000 * 32 * 32 * 3


class ResidentImages(DecodedImages):
    """Decoded images, and where they came from.

    Args:
        pixels: (M, H, W, 3) uint8 RGB, in the order of `source`.
        source: the M images that they were. Heights and widths are 0 where they cannot be decoded.
        rows: (N,) which of them, in which order.
    """

    def __init__(self, pixels: NDArray[np.uint8], source: ImageSet, rows: NDArray[np.int64]) -> None:
        super().__init__(source.labels[rows], source.heights[rows], source.widths[rows])
        _, height, width, channels = pixels.shape
        self.pixels, self.shape, self.source, self.rows = pixels, (height, width, channels), source, rows

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels[self.rows[indices]]

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels[self.rows[index]]

    def decode(self, index: int) -> NDArray[np.uint8]:
        if self.heights[index] == 0:
            raise self.why_unreadable(index)
        return self.read(index)

    def why_unreadable(self, index: int) -> UnreadableImage:
        return UnreadableImage(index, str(self.source.why_unreadable(int(self.rows[index]))))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.rows[index]))

    def subset(self, indices: NDArray[np.int64]) -> "ResidentImages":
        return ResidentImages(self.pixels, self.source, self.rows[indices])


def make_resident(images: ImageSet, root: Path, name: str, most_bytes: int, threads: int) -> ImageSet:
    """The same set, decoded, if its images have one size and fit; else the set as it is.

    Args:
        images: a whole split.
        root: data.root, beside which the pixels are kept.
        name: of data set and split; several may lie in one root.
        most_bytes: of all pixels.
        threads: that decode.

    Raises:
        ValueError: no room on the disk, or a file cannot be read.
    """
    size = resident_size(images, most_bytes)
    if size is None or not isinstance(images, EncodedImages):
        return images
    shape = (len(images), *size, 3)
    key = [list(shape), images.stamps()]
    folder = cached(root, f"{name}-pixels", key, lambda folder: _decode(images, shape, folder, name, threads))
    with reading(folder):
        pixels = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
        unreadable = np.load(folder / _UNREADABLE, allow_pickle=False)
    return ResidentImages(pixels, images.without(unreadable), np.arange(len(images)))


def resident_size(images: ImageSet, most_bytes: int) -> tuple[int, int] | None:
    """Height and width of all images, if they have one size and all pixels fit into `most_bytes`."""
    shapes = np.unique(np.stack((images.heights, images.widths), axis=1)[images.heights > 0], axis=0)
    if len(shapes) != 1 or len(images) * int(shapes[0].prod()) * 3 > most_bytes:
        return None
    height, width = shapes[0].tolist()
    return height, width


def _decode(images: EncodedImages, shape: tuple[int, ...], folder: Path, name: str, threads: int) -> None:
    require_space(folder, int(np.prod(shape, dtype=np.int64)), "keep them encoded: data.resident_mib=0")
    pixels = np.lib.format.open_memmap(folder / _PIXELS, "w+", np.uint8, shape)

    def decode(index: int) -> bool:
        try:
            pixels[index] = images.decode(index)
        except UnreadableImage:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(decode, range(len(images)))
        readable = list(tqdm(results, total=len(images), desc=f"decoding {name}", unit="img", disable=None))
    pixels.flush()
    np.save(folder / _UNREADABLE, np.flatnonzero(~np.array(readable)), allow_pickle=False)


def load_resident_cifar(name: str, root: Path) -> tuple[ResidentImages, ResidentImages, tuple[str, ...]]:
    """load_cifar, verified and unpacked by one process for all. Raises ValueError as load_cifar does."""

    def unpack(folder: Path) -> None:
        *splits, names = load_cifar(name, root)
        for split, images in zip(_SPLITS, splits, strict=True):
            np.save(folder / f"{split}.{_PIXELS}", images.pixels, allow_pickle=False)
            np.save(folder / f"{split}.labels.npy", images.labels, allow_pickle=False)
        (folder / "names.json").write_text(json.dumps(names))

    folder = cached(root, f"{name}-pixels", [OFFICIAL[name].checksums, stamps(cifar_sources(name, root))], unpack)

    def load(split: str, what: str) -> ResidentImages:
        pixels = np.load(folder / f"{split}.{_PIXELS}", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{split}.labels.npy", allow_pickle=False)
        return ResidentImages(pixels, ArrayImages(pixels, labels, f"{name} {what} image"), np.arange(len(labels)))

    with reading(folder):
        names = json.loads((folder / "names.json").read_text())
        return load("train", "training"), load("test", "test"), tuple(names)
