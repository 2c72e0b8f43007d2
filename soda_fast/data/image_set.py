"""The images of one split, whether they lie in memory, in files, or in tar shards (shard_images.py)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.cache import stamps
from soda_fast.store.pictures import PictureError, decode, make_plain, read_header


class UnreadableImage(ValueError):
    """An image that cannot be decoded; names it, the cause and the remedy. index: its place in the image set."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class ImageSet(ABC):
    """N labelled images.

    labels: (N,) int64. heights, widths: (N,) int64, pixels as stored: tags of orientation (EXIF) are ignored, by every
    backend; 0: the image is known to be unreadable. encoded: whether `read` gives a file's bytes or pixels.
    """

    encoded: bool

    def __init__(self, labels: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
        self.labels, self.heights, self.widths = labels, heights, widths

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB pixels, or the (bytes,) of an encoded file that every decoder reads alike.

        Raises:
            ValueError: a file cannot be read; names it.
            UnreadableImage: it can, and is no image.
        """

    @abstractmethod
    def describe(self, index: int) -> str:
        """What a person would call the image: a file name, or "digits image 12"."""

    @abstractmethod
    def subset(self, indices: NDArray[np.int64]) -> "ImageSet":
        """The images at `indices` (M,), in that order, as a set of their own."""

    @abstractmethod
    def decode(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB pixels as Pillow decodes them.

        Raises:
            ValueError: a file cannot be read; names it.
            UnreadableImage: it can, and is no image.
        """

    def why_unreadable(self, index: int) -> UnreadableImage:
        """The error that names an image known to be unreadable, and the cause."""
        raise AssertionError(f"{self.describe(index)}: pixels that were never encoded are readable")


class DecodedImages(ImageSet):
    """Images of one size, decoded in memory.

    shape: (H, W, 3) of each.
    """

    encoded = False
    shape: tuple[int, int, int]

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(M, H, W, 3) pixels of the images at `indices` (M,)."""

    @property
    def image_bytes(self) -> int:
        """What the pixels of an image take."""
        return math.prod(self.shape)


class ArrayImages(DecodedImages):
    """Images given as their pixels.

    Args:
        pixels: (N, H, W, 3) uint8 RGB.
        labels: (N,) int64.
        name: what to call an image before its number, as "digits image".
        numbers: (N,) the images' numbers in that name; None: 0, 1, 2, ...
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        name: str,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        count, height, width, channels = pixels.shape
        super().__init__(labels, np.full(count, height, np.int64), np.full(count, width, np.int64))
        self.pixels, self.shape, self.name = pixels, (height, width, channels), name
        self.numbers = np.arange(count) if numbers is None else numbers

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels[index]

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.pixels[indices]

    def describe(self, index: int) -> str:
        return f"{self.name} {self.numbers[index]}"

    def subset(self, indices: NDArray[np.int64]) -> "ArrayImages":
        return ArrayImages(self.pixels[indices], self.labels[indices], self.name, self.numbers[indices])

    def decode(self, index: int) -> NDArray[np.uint8]:
        return self.pixels[index]


class EncodedImages(ImageSet):
    """Images in files or in parts of files."""

    encoded = True

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The image's bytes as stored. Raises ValueError naming a file that cannot be read."""

    @abstractmethod
    def stamps(self) -> list[object]:
        """What changes when a file does, as JSON has it."""

    def without(self, indices: NDArray[np.int64]) -> "EncodedImages":
        """The same set, with the images at `indices` known to be unreadable."""
        made = copy(self)
        made.heights, made.widths = self.heights.copy(), self.widths.copy()
        made.heights[indices] = made.widths[indices] = 0
        return made

    def read(self, index: int) -> NDArray[np.uint8]:
        content = self.content(index)
        if not self.known_plain(index):
            try:
                content = make_plain(content)
            except PictureError as error:
                raise self._unreadable(index, str(error)) from error
        return np.frombuffer(content, np.uint8)

    def known_plain(self, index: int) -> bool:
        """Whether the file's structure was looked at before, and found to be ordinary."""
        return False

    def decode(self, index: int) -> NDArray[np.uint8]:
        try:
            pixels = decode(self.content(index))
        except PictureError as error:
            raise self._unreadable(index, str(error)) from error
        if pixels.shape[:2] != (self.heights[index], self.widths[index]):
            raise UnreadableImage(
                index,
                f"{self.describe(index)}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, was "
                f"{self.widths[index]}x{self.heights[index]} when the data set was opened; leave the files alone while "
                "they are in use",
            )
        return pixels

    def why_unreadable(self, index: int) -> UnreadableImage:
        try:
            content = self.content(index)
            read_header(content)
            decode(content)
        except PictureError as error:
            return self._unreadable(index, str(error))
        return self._unreadable(index, "was unreadable when the data set was opened or prepared, and has changed since")

    def _unreadable(self, index: int, cause: str) -> UnreadableImage:
        return UnreadableImage(
            index,
            f"{self.describe(index)}: {cause}; replace the file or remove it, or set data.on_unreadable=replace",
        )


class FileImages(EncodedImages):
    """Encoded images in files.

    Args:
        paths: N files.
        labels, heights, widths: (N,) int64.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> None:
        super().__init__(labels, heights, widths)
        self.paths = paths

    def content(self, index: int) -> bytes:
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise ValueError(
                f"{self.paths[index]}: cannot be read ({error.strerror}); restore the file or remove it from the data "
                "set and start again"
            ) from error

    def stamps(self) -> list[object]:
        return stamps(self.paths)

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def subset(self, indices: NDArray[np.int64]) -> "FileImages":
        paths = [self.paths[i] for i in indices]
        return FileImages(paths, self.labels[indices], self.heights[indices], self.widths[indices])
