"""From what a user has of a data set, archives or a tree, to the entries of its store.

The order is that of training from the tree itself, so that a run may go on from the store.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from soda_fast.data.cifar import cifar_sources, load_cifar
from soda_fast.data.folder import Listing, list_folder, note_of
from soda_fast.data.image_files import find_images
from soda_fast.data.image_set import ArrayImages
from soda_fast.data.poses import read_poses, require_poses
from soda_fast.data.tiny_imagenet import list_tiny_imagenet
from soda_fast.prepare import imagenet
from soda_fast.prepare.archives import Member, list_tar, list_zip
from soda_fast.prepare.coil import coil_contents
from soda_fast.prepare.member_trees import folder_members, tiny_imagenet_members
from soda_fast.prepare.official import OFFICIAL, WHOLE, check_counts, verify
from soda_fast.prepare.unpack import uncompressed
from soda_fast.store.build import Contents
from soda_fast.store.entries import Entry, Pixels, file_entry
from soda_fast.store.layout import POSES


def read_source(dataset: str, source: Path, part: bool, scratch: Path, held_out_objects: int = 0) -> Contents:
    """What is to be stored, checked against the official checksums and counts.

    Args:
        dataset: one of prepare.DATASETS but webdataset.
        source: an archive, or a folder that holds archives or a tree.
        part: accept fewer images than the official data set has, and archives of other checksums.
        scratch: folder for notes and for what must be decompressed.
        held_out_objects: of coil100: see `coil_contents`.

    Raises:
        ValueError: nothing usable there, or something hostile or damaged, or counts that are not the official ones.
    """
    if not source.exists():
        raise ValueError(f"--source {source}: does not exist")
    contents = replace(_read(dataset, source, part, scratch, held_out_objects), source=str(source.resolve()))
    for split, entries in _as_published(dataset, contents.splits).items():
        labels = np.array([entry.label for entry in entries], np.int64)
        present, counts = np.unique(labels, return_counts=True)
        by_class = {contents.class_names[label]: int(count) for label, count in zip(present, counts, strict=True)}
        difference = check_counts(dataset, split, by_class, part)
        if difference:
            print(f"a part of {dataset}: {difference}")
    return contents


def _as_published(dataset: str, splits: Mapping[str, Sequence[Entry]]) -> Mapping[str, Sequence[Entry]]:
    """The splits, put together where the official data set has none."""
    official = OFFICIAL.get(dataset)
    if official is None or WHOLE not in official.images:
        return splits
    return {WHOLE: [entry for entries in splits.values() for entry in entries]}


def _read(dataset: str, source: Path, part: bool, scratch: Path, held_out_objects: int) -> Contents:
    if dataset in ("cifar10", "cifar100"):
        train, test, names = load_cifar(dataset, source)
        stamp = _stamp(cifar_sources(dataset, source))
        return Contents(dataset, names, {"train": _pixel_entries(train, stamp), "test": _pixel_entries(test, stamp)})
    if dataset == "coil100":
        return coil_contents(str(source), _all_entries(source, scratch), held_out_objects)
    archive = _archive(dataset, source)
    if archive is not None:
        return _from_archive(dataset, archive, part, scratch)
    if dataset == "imagenet" and not (source / "train").is_dir():
        return imagenet.read_archives(source, part, scratch)
    if dataset != "tiny_imagenet":
        _tell(note_of(source))
    list_tree = list_tiny_imagenet if dataset == "tiny_imagenet" else list_folder
    classes, train_files, test_files = list_tree(source)
    splits = {"train": _file_entries(source, train_files)}
    if test_files is not None:
        splits["test"] = _file_entries(source, test_files)
    return Contents(dataset, tuple(classes), splits, _poses(source, splits))


def _tell(note: str | None) -> None:
    if note:
        print(note)


def _poses(source: Path, splits: Mapping[str, Sequence[Entry]]) -> str | None:
    """The text of a tree's poses.csv, checked; None if it has none."""
    path = source / POSES
    if not path.is_file():
        return None
    known = read_poses(path)
    require_poses(path, [entry.name for entries in splits.values() for entry in entries], known)
    return path.read_text(encoding="utf-8")


def _all_entries(source: Path, scratch: Path) -> list[Entry]:
    """The files of an archive or of a folder; their labels are not known yet."""
    if source.is_file():
        stamp = source.stat().st_mtime_ns
        return [member.entry(0, stamp) for member in _members(source, scratch)]
    return [file_entry(path.relative_to(source).as_posix(), 0, str(path)) for path in find_images(source)]


def _archive(dataset: str, source: Path) -> Path | None:
    """The one archive to read, or None for a tree (or ImageNet's several archives)."""
    if source.is_file():
        return source
    if dataset == "tiny_imagenet":
        official = source / OFFICIAL[dataset].archives[0].file
        if official.is_file() and not (source / "train").is_dir() and not (source / "tiny-imagenet-200").is_dir():
            return official
    return None


def _from_archive(dataset: str, archive: Path, part: bool, scratch: Path) -> Contents:
    if dataset == "imagenet":
        raise ValueError(f"--source {archive}: give the folder that holds the three archives of ILSVRC2012, or a tree")
    if dataset == "tiny_imagenet" and not part:
        verify(archive, OFFICIAL[dataset].archives[0], scratch / "verified.json")
    members = _members(archive, scratch)
    posed = next((member.name for member in members if member.name.rpartition("/")[2] == POSES), None)
    if posed is not None:
        raise ValueError(f"{archive}: holds {posed}, and poses are read from folders alone; unpack it, give the folder")
    pick = tiny_imagenet_members if dataset == "tiny_imagenet" else folder_members
    classes, splits = pick(archive, members)
    return Contents(dataset, tuple(classes), splits)


def _members(archive: Path, scratch: Path) -> list[Member]:
    with archive.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    return list_zip(archive) if is_zip else list_tar(uncompressed(archive, scratch))


def _stamp(files: Sequence[Path]) -> int:
    """A number that changes with the sizes and times of files whose images have no files of their own."""
    status = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return int.from_bytes(hashlib.sha256(json.dumps(status).encode()).digest()[:7])


def _pixel_entries(images: ArrayImages, stamp: int) -> list[Entry]:
    return [
        Entry(images.describe(index), int(label), pixels.nbytes, stamp, Pixels(pixels))
        for index, (label, pixels) in enumerate(zip(images.labels, images.pixels, strict=True))
    ]


def _file_entries(root: Path, listing: Listing) -> list[Entry]:
    paths, labels = listing
    return [
        file_entry(path.relative_to(root).as_posix(), int(label), str(path))
        for path, label in zip(paths, labels, strict=True)
    ]
