"""What an archive holds, as entries to read from it in place. Nothing is unpacked to disk; nothing odd is passed over.

A member whose name leads out of the archive, a link, a device, an absurd size: each refuses the whole archive.
"""

import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from soda_fast.store.entries import Entry, FileRange, Origin, ZipMember
from soda_fast.store.tar_end import require_end

MAX_MEMBER_BYTES = 256 << 20
"""No image of any of these data sets comes near."""
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_ENCRYPTED, _PATCH, _STRONGLY_ENCRYPTED = 0x1, 0x20, 0x40  # bits of a member's flags
_MAX_TAR_BYTES = 4 << 30  # of a tar inside a tar: ImageNet's classes are 0.2 GB


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in an archive. name: with forward slashes, no "." and no ".." in it."""

    name: str
    size: int
    origin: Origin

    def entry(self, label: int, stamp: int) -> Entry:
        return Entry(self.name, label, self.size, stamp, self.origin)


def list_zip(path: Path) -> list[Member]:
    """The regular files of a zip archive, in its order. Raises ValueError for a damaged or hostile one."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise ValueError(f"{path}: is no whole zip archive ({error}); get it again") from error
    members = []
    for info in infos:
        name = _safe_name(path, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
            raise _refused(path, name, "is a link or a device")
        if info.flag_bits & (_ENCRYPTED | _STRONGLY_ENCRYPTED):
            raise _refused(path, name, "is encrypted")
        if info.compress_type not in _METHODS or info.flag_bits & _PATCH:
            raise ValueError(
                f"{path}: {name} in it is compressed by a method that is not read here (number {info.compress_type} of "
                "the zip format); unpack the archive, or pack it again with the usual ones (zip -r)"
            )
        _check_size(path, name, info.file_size, MAX_MEMBER_BYTES)
        members.append(Member(name, info.file_size, ZipMember(str(path), info.filename)))
    return _without_repeats(path, members)


def list_tar(path: Path) -> list[Member]:
    """The regular files of an uncompressed tar archive, in its order. Raises ValueError as list_zip does."""
    size = path.stat().st_size
    with _open_tar(path) as archive:
        return _without_repeats(path, list(_tar_members(path, archive, 0, size, MAX_MEMBER_BYTES)))


def list_tar_of_tars(path: Path) -> Iterator[tuple[str, list[Member]]]:
    """(name, its files) of each tar inside an uncompressed tar. Raises ValueError as list_zip does."""
    size = path.stat().st_size
    with _open_tar(path) as archive:
        outer = _without_repeats(path, list(_tar_members(path, archive, 0, size, _MAX_TAR_BYTES)))
        infos = [info for info in archive if not info.isdir()]
        for member, info in zip(outer, infos, strict=True):
            try:
                with tarfile.open(fileobj=archive.extractfile(info), mode="r:") as tar:
                    inner = list(_tar_members(path, tar, info.offset_data, info.size, MAX_MEMBER_BYTES))
            except (tarfile.TarError, OSError) as error:
                raise ValueError(
                    f"{path}: {member.name} in it is no whole tar archive ({error}); get it again"
                ) from error
            yield member.name, _without_repeats(path, inner)


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path}: is no uncompressed tar archive ({error}); unpack or get it again") from error


def _tar_members(path: Path, archive: tarfile.TarFile, start: int, size: int, most: int) -> Iterator[Member]:
    """start, size: where the archive lies in the file."""
    try:
        for info in archive:
            name = _safe_name(path, info.name)
            if info.isdir():
                continue
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.sparse:
                raise _refused(path, name, "is a link, a device or a file with holes")
            _check_size(path, name, info.size, most)
            if info.offset_data + info.size > size:
                raise ValueError(f"{path}: ends inside {name}; get the archive again")
            yield Member(name, info.size, FileRange(str(path), start + info.offset_data, info.size))
        require_end(archive, path)
    except (tarfile.TarError, EOFError, RecursionError) as error:
        raise ValueError(f"{path}: is damaged ({error}); get the archive again") from error


def _safe_name(path: Path, name: str) -> str:
    """The name without "./". Raises ValueError for one that leads out of the folder it is unpacked into."""
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name[:2] or "\\" in name or "\0" in name:
        raise _refused(path, repr(name), "leads out of the archive")
    return "/".join(part for part in parts if part != ".")


def _check_size(path: Path, name: str, size: int, most: int) -> None:
    if not 0 <= size <= most:
        raise _refused(path, name, f"claims {size:,} bytes")


def _without_repeats(path: Path, members: list[Member]) -> list[Member]:
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise _refused(path, member.name, "comes twice")
        seen.add(member.name)
    return members


def _refused(path: Path, name: str, reason: str) -> ValueError:
    return ValueError(f"{path}: refused, because {name} in it {reason}; get the archive from its official address")
