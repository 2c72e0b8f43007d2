"""The images of one split, whether they lie in memory or in files."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError


class ImageSet(ABC):
    """N labelled images.

    labels: (N,) int64. heights, widths: (N,) int64, pixels as stored: tags of orientation (EXIF) are ignored, by every
    backend. encoded: whether `read` gives a file's bytes or pixels.
    """

    encoded: bool

    def __init__(self, labels: NDArray[np.int64], heights: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
        self.labels, self.heights, self.widths = labels, heights, widths

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB pixels, or the (bytes,) of an encoded file.

        Raises:
            ValueError: a file cannot be read; names it.
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
            ValueError: the file cannot be read or decoded; names it and the remedy.
        """


class ArrayImages(ImageSet):
    """Images of one size in memory.

    Args:
        pixels: (N, H, W, 3) uint8 RGB.
        labels: (N,) int64.
        name: what to call an image before its number, as "digits image".
        numbers: (N,) the images' numbers in that name; None: 0, 1, 2, ...
    """

    encoded = False

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        name: str,
        numbers: NDArray[np.int64] | None = None,
    ) -> None:
        count, height, width, _ = pixels.shape
        super().__init__(labels, np.full(count, height, np.int64), np.full(count, width, np.int64))
        self.pixels, self.name = pixels, name
        self.numbers = np.arange(count) if numbers is None else numbers

    def read(self, index: int) -> NDArray[np.uint8]:
        return self.pixels[index]

    def describe(self, index: int) -> str:
        return f"{self.name} {self.numbers[index]}"

    def subset(self, indices: NDArray[np.int64]) -> "ArrayImages":
        return ArrayImages(self.pixels[indices], self.labels[indices], self.name, self.numbers[indices])

    def decode(self, index: int) -> NDArray[np.uint8]:
        return self.pixels[index]


class FileImages(ImageSet):
    """Encoded images in files.

    Args:
        paths: N files.
        labels, heights, widths: (N,) int64.
    """

    encoded = True

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int64],
        heights: NDArray[np.int64],
        widths: NDArray[np.int64],
    ) -> None:
        super().__init__(labels, heights, widths)
        self.paths = paths

    def read(self, index: int) -> NDArray[np.uint8]:
        try:
            return np.fromfile(self.paths[index], np.uint8)
        except OSError as error:
            raise ValueError(
                f"{self.paths[index]}: cannot be read ({error.strerror}); restore the file or remove it from the data "
                "set and start again"
            ) from error

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def subset(self, indices: NDArray[np.int64]) -> "FileImages":
        paths = [self.paths[i] for i in indices]
        return FileImages(paths, self.labels[indices], self.heights[indices], self.widths[indices])

    def decode(self, index: int) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(self.read(index).tobytes())) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{self.paths[index]}: cannot be decoded ({str(error).splitlines()[0]}); replace the file or remove it"
            ) from error
        if pixels.shape[:2] != (self.heights[index], self.widths[index]):
            raise ValueError(
                f"{self.paths[index]}: is {pixels.shape[1]}x{pixels.shape[0]} pixels, was "
                f"{self.widths[index]}x{self.heights[index]} when the data set was opened; leave the files alone while "
                "they are in use"
            )
        return pixels


def culprit(images: ImageSet, indices: NDArray[np.int64]) -> ValueError | None:
    """Find the image of a failed batch that Pillow cannot decode either: the error that names it, or None."""
    for index in indices:
        try:
            images.decode(int(index))
        except ValueError as error:
            return error
    return None
