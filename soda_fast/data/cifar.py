"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their official Python version, from the archive or unpacked.

The batches are pickles, and a pickle can run code: nothing is unpickled before its MD5 is the official one.
"""

import hashlib
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soda_fast.data.image_set import ArrayImages

_MAX_FILE_BYTES = 256 << 20  # the largest file, CIFAR-100's train, has 155 MB


@dataclass(frozen=True)
class CifarFiles:
    """The files of one of the two data sets. train, test, meta: {file: MD5}; label_key, names_key: in the pickles."""

    archive: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]
    label_key: bytes
    names_key: bytes

    @property
    def checksums(self) -> dict[str, str]:
        """{file: MD5} of all files."""
        return {**self.train, **self.test, **self.meta}


OFFICIAL = {
    "cifar10": CifarFiles(
        archive="cifar-10-python.tar.gz",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        label_key=b"labels",
        names_key=b"label_names",
    ),
    "cifar100": CifarFiles(
        archive="cifar-100-python.tar.gz",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        label_key=b"fine_labels",
        names_key=b"fine_label_names",
    ),
}


def load_cifar(
    name: str, root: Path, files: CifarFiles | None = None
) -> tuple[ArrayImages, ArrayImages, tuple[str, ...]]:
    """Train, test and the classes' names.

    Looked for in this order: `root` is the archive, or the unpacked folder itself; the unpacked folder in `root`, in
    `root/NAME`; the archive in `root`, in `root/NAME`.

    Args:
        name: "cifar10" or "cifar100" (with its 100 fine classes).
        root: data.root.
        files: names and checksums; None: the official ones.

    Raises:
        ValueError: nothing found, or a file that is missing or differs from the official one.
    """
    files = files or OFFICIAL[name]
    contents = _verified_contents(root, name, files)
    names = _unpickle(contents, *files.meta)[files.names_key]
    train = _images(contents, files, files.train, f"{name} training image")
    test = _images(contents, files, files.test, f"{name} test image")
    return train, test, tuple(label.decode() for label in names)


def _images(contents: dict[str, bytes], files: CifarFiles, batches: Mapping[str, str], name: str) -> ArrayImages:
    parts = [_unpickle(contents, batch) for batch in batches]
    channels_first = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(part[files.label_key], np.int64) for part in parts])
    return ArrayImages(np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1)), labels, name)


def _unpickle(contents: dict[str, bytes], file: str) -> dict[bytes, Any]:
    return pickle.loads(contents[file], encoding="bytes")


def cifar_sources(name: str, root: Path, files: CifarFiles | None = None) -> list[Path]:
    """The archive, or the files of the unpacked folder. Raises ValueError where there is neither."""
    files = files or OFFICIAL[name]
    if root.is_file():
        return [root]
    here = root if any((root / file).is_file() for file in files.train) else root / files.folder
    for place in (here, root / name / files.folder):
        if place.is_dir():
            return [place / file for file in files.checksums]
    for place in (root / files.archive, root / name / files.archive):
        if place.is_file():
            return [place]
    raise ValueError(
        f"data.root {root}: found neither {files.folder}/ nor {files.archive} there or in {root / name}; download the "
        "archive from https://www.cs.toronto.edu/~kriz/cifar.html into it"
    )


def _verified_contents(root: Path, name: str, files: CifarFiles) -> dict[str, bytes]:
    """{file: bytes}, every file with the checksum it must have."""
    sources = cifar_sources(name, root, files)
    if len(sources) == 1:
        return _verified_archive(sources[0], files)
    return {path.name: _verified(_read(path), path, files.checksums[path.name]) for path in sources}


def _verified_archive(archive: Path, files: CifarFiles) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _refuse_hostile(archive, member)
                folder, _, file = member.name.removeprefix("./").partition("/")
                if folder == files.folder and file in files.checksums and member.isfile():
                    stream = tar.extractfile(member)
                    assert stream is not None, "isfile was asked before"
                    contents[file] = _verified(stream.read(), archive / member.name, files.checksums[file])
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        reason = getattr(error, "strerror", None) or "damaged or no tar archive"
        raise ValueError(f"{archive}: cannot be read ({reason}); download it again") from error
    missing = [file for file in files.checksums if file not in contents]
    if missing:
        raise ValueError(f"{archive}: holds no {files.folder}/{missing[0]}; download the archive again")
    return contents


def _refuse_hostile(archive: Path, member: tarfile.TarInfo) -> None:
    leads_out = member.name.startswith("/") or ".." in member.name.split("/")
    if leads_out or not (member.isfile() or member.isdir()) or member.size > _MAX_FILE_BYTES:
        raise ValueError(f"{archive}: refused, because {member.name!r} in it is nothing the official archive holds")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); unpack the official archive again") from error


def _verified(content: bytes, path: Path, expected: str) -> bytes:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path}: MD5 is {found}, the official file's is {expected}; download the official Python version again"
        )
    return content
