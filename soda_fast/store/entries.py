"""Images to be stored or checked, and where their bytes come from. Everything here travels to worker processes."""

import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from soda_fast.files import naming
from soda_fast.store.pictures import encode_png

# What zipfile raises where a member is not what its directory says. NotImplementedError, for methods it does not know,
# is a RuntimeError, as is its refusal of what is encrypted; bz2 raises OSErrors without a number.
_DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    RuntimeError,
    struct.error,
    OSError,
)


class Origin(Protocol):
    """Where the bytes of one image are."""

    def read(self) -> bytes:
        """All bytes. Raises ValueError or OSError naming the file."""
        ...


class Entry(NamedTuple):
    """One image. name: what a person calls it. size: bytes, of pixels an upper estimate. stamp: when it was written."""

    name: str
    label: int
    size: int
    stamp: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A file of its own."""

    path: str

    def read(self) -> bytes:
        with naming(self.path), open(self.path, "rb") as file:
            return file.read()


@dataclass(frozen=True, slots=True)
class FileRange:
    """`length` bytes at `offset` of an uncompressed archive."""

    path: str
    offset: int
    length: int

    def read(self) -> bytes:
        with naming(self.path), open(self.path, "rb", buffering=0) as file:
            return read_range(file.fileno(), self.offset, self.length, self.path)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip archive, compressed or not."""

    path: str
    name: str

    def read(self) -> bytes:
        try:
            return _zip(self.path).read(self.name)
        except _DAMAGED_ZIP as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(f"{self.path}: {self.name} is damaged ({error}); get the archive again") from error


@dataclass(frozen=True, slots=True)
class Pixels:
    """(H, W, 3) uint8 RGB, stored as PNG."""

    pixels: NDArray[np.uint8]

    def read(self) -> bytes:
        return encode_png(self.pixels)


def file_entry(name: str, label: int, path: str) -> Entry:
    """The entry of a file. Raises OSError if there is none."""
    status = os.stat(path)
    return Entry(name, label, status.st_size, status.st_mtime_ns, WholeFile(path))


def read_range(descriptor: int, offset: int, length: int, path: str) -> bytes:
    """`length` bytes at `offset` of an open file. Raises ValueError for a file that ends before; OSError."""
    content = os.pread(descriptor, length, offset)
    # A read may return less than asked for, on network file systems and above 2 GiB.
    while len(content) < length:
        more = os.pread(descriptor, length - len(content), offset + len(content))
        if not more:
            raise ValueError(f"{path}: ends before byte {offset + length:,}; it was cut short, get or make it again")
        content += more
    return content


@lru_cache(maxsize=1)
def _zip(path: str) -> zipfile.ZipFile:
    # Its list of members takes a second to read for 100,000 of them; a worker reads one archive.
    return zipfile.ZipFile(path)
