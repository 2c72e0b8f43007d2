"""Compressed tars, made readable at any place: decompressed to one file beside the store, and never unpacked."""

import bz2
import gzip
import json
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from tqdm import tqdm

from soda_fast.files import write_atomically
from soda_fast.store.build import require_space

_OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
_MOST_TIMES = 100
"""Images hardly compress; what grows more than this is a bomb."""
_CHUNK = 8 << 20


def uncompressed(archive: Path, scratch: Path) -> Path:
    """The archive itself, or a decompressed copy in `scratch`, made once.

    Raises:
        ValueError: damaged, growing absurdly, or more than the disk can hold.
    """
    with archive.open("rb") as file:
        start = file.read(8)
    opener = next((opener for magic, opener in _OPENERS if start.startswith(magic)), None)
    if opener is None:
        return archive
    status, copy, note = archive.stat(), scratch / "source.tar", scratch / "source.json"
    stamp = json.dumps([str(archive.resolve()), status.st_size, status.st_mtime_ns]).encode()
    if copy.is_file() and note.is_file() and note.read_bytes() == stamp:
        return copy
    note.unlink(missing_ok=True)
    try:
        with opener(archive, "rb") as source, copy.open("wb") as target:
            _copy(cast(BinaryIO, source), target, archive, scratch, status.st_size * _MOST_TIMES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        system = isinstance(error, OSError) and error.errno is not None  # what is damaged has no number
        remedy = f"see to it that files can be written to {scratch}" if system else "get it again"
        raise ValueError(f"{archive}: cannot be decompressed ({error}); {remedy}") from error
    write_atomically(note, stamp)
    return copy


def _copy(source: BinaryIO, target: BinaryIO, archive: Path, scratch: Path, most: int) -> None:
    written = 0
    with tqdm(desc=f"decompressing {archive.name}", unit="B", unit_scale=True, disable=None) as bar:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise ValueError(f"{archive}: refused, because it grows to more than {_MOST_TIMES} times its size")
            require_space(scratch, len(chunk))
            target.write(chunk)
            bar.update(len(chunk))
