"""Class folders inside an archive, found by the rules that hold for folders on disk."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from soda_fast.data.folder import both_splits
from soda_fast.data.tiny_imagenet import read_annotations
from soda_fast.prepare.archives import Member
from soda_fast.store.entries import Entry
from soda_fast.store.suffixes import OTHERS, SUFFIXES, refuse_others

Splits = dict[str, list[Entry]]


def folder_members(archive: Path, members: Sequence[Member]) -> tuple[list[str], Splits]:
    """Classes, and the entries of train and of test or else val. Raises ValueError where there are none."""
    top = _top(archive, members)
    stamp = archive.stat().st_mtime_ns
    train = _by_class(archive, members, f"{top}train/")
    if not train:
        raise ValueError(f"{archive}: holds no class folders of images in {top}train/")
    classes = sorted(train)
    splits = {"train": _entries(train, classes, stamp)}
    tests = {name: _by_class(archive, members, f"{top}{name}/") for name in ("test", "val")}
    note = both_splits(archive, bool(tests["test"]), bool(tests["val"]))
    if note:
        print(note)
    for name, found in tests.items():
        if found:
            unknown = sorted(set(found) - set(classes))
            if unknown:
                raise ValueError(f"{archive}: {top}{name}/{unknown[0]} is a class that {top}train/ does not have")
            splits["test"] = _entries(found, classes, stamp)
            break
    return classes, splits


def tiny_imagenet_members(archive: Path, members: Sequence[Member]) -> tuple[list[str], Splits]:
    """The same for Tiny-ImageNet, whose validation labels are in a file."""
    top = _top(archive, members)
    stamp = archive.stat().st_mtime_ns
    train = _by_class(archive, members, f"{top}train/")
    classes = sorted(train)
    by_name = {member.name: member for member in members}
    annotations = f"{top}val/val_annotations.txt"
    if not train or annotations not in by_name:
        raise ValueError(f"{archive}: holds no {annotations if train else top + 'train/'}; get the official archive")
    text = by_name[annotations].origin.read().decode("utf-8", "replace")
    files, labels = read_annotations(text, f"{archive}: {annotations}", classes)
    missing = [file for file in files if f"{top}val/images/{file}" not in by_name]
    if missing:
        raise ValueError(f"{archive}: holds no {top}val/images/{missing[0]}, which {annotations} names; get it again")
    test = [
        by_name[f"{top}val/images/{file}"].entry(int(label), stamp) for file, label in zip(files, labels, strict=True)
    ]
    return classes, {"train": _entries(train, classes, stamp), "test": test}


def _top(archive: Path, members: Sequence[Member]) -> str:
    """What stands before train/ in the members' names: "" or "tiny-imagenet-200/"."""
    tops = {f"/{member.name}".partition("/train/")[0] for member in members if "/train/" in f"/{member.name}"}
    if not tops:
        raise ValueError(f"{archive}: holds no folder train/; put one folder for each class into it")
    shortest = min(tops, key=lambda top: (top.count("/"), top))
    return f"{shortest}/".removeprefix("/")


def _by_class(archive: Path, members: Sequence[Member], prefix: str) -> dict[str, list[Member]]:
    """Images below `prefix` by class, sorted as paths; hidden files and what is no image are left out."""
    found: dict[str, list[Member]] = {}
    others: list[str] = []
    for member in sorted(members, key=lambda member: PurePosixPath(member.name)):
        name, _, rest = member.name.removeprefix(prefix).partition("/")
        suffix = PurePosixPath(rest).suffix.lower()
        if not member.name.startswith(prefix) or any(part.startswith(".") for part in (name, *rest.split("/"))):
            continue
        if suffix in SUFFIXES:
            found.setdefault(name, []).append(member)
        elif suffix in OTHERS:
            others.append(f"{name}/{rest}")
    refuse_others(f"{archive}: {prefix}", others)
    return found


def _entries(by_class: dict[str, list[Member]], classes: list[str], stamp: int) -> list[Entry]:
    labels = {name: label for label, name in enumerate(classes)}
    return [member.entry(labels[name], stamp) for name in sorted(by_class) for member in by_class[name]]
