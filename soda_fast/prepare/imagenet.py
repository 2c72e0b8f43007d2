"""ILSVRC2012 from its three archives, read in place: a tar of tars by class, a flat tar, and the labels' devkit."""

import io
import tarfile
import zlib
from pathlib import Path

from soda_fast.prepare.archives import MAX_MEMBER_BYTES, list_tar, list_tar_of_tars
from soda_fast.prepare.official import OFFICIAL, verify
from soda_fast.store.build import Contents
from soda_fast.store.entries import Entry

_FOLDER = "ILSVRC2012_devkit_t12/data"
_TRUTH = f"{_FOLDER}/ILSVRC2012_validation_ground_truth.txt"
_META = f"{_FOLDER}/meta.mat"


def read_archives(source: Path, part: bool, scratch: Path) -> Contents:
    """Entries of train and val (as test); classes are WordNet ids in their order, as in a tree of class folders.

    Raises:
        ValueError: an archive is missing, not the official one (unless `part`), damaged or hostile.
    """
    train, val, devkit = (source / archive.file for archive in OFFICIAL["imagenet"].archives)
    for path, archive in zip((train, val, devkit), OFFICIAL["imagenet"].archives, strict=True):
        if not path.is_file():
            raise ValueError(
                f"{source}: holds neither {path.name} nor a folder train/; download the archives of ILSVRC2012 from "
                f"{OFFICIAL['imagenet'].page}"
            )
        if not part:
            verify(path, archive, scratch / "verified.json")
    by_class = {name.removesuffix(".tar"): members for name, members in list_tar_of_tars(train)}
    classes = sorted(by_class)
    labels = {name: label for label, name in enumerate(classes)}
    stamp = train.stat().st_mtime_ns
    entries = [
        member.entry(labels[name], stamp)._replace(name=f"train/{name}/{member.name}")
        for name in classes
        for member in sorted(by_class[name], key=lambda member: member.name)
    ]
    return Contents("imagenet", tuple(classes), {"train": entries, "test": _val_entries(val, devkit, labels)})


def _val_entries(val: Path, devkit: Path, labels: dict[str, int]) -> list[Entry]:
    members = sorted(list_tar(val), key=lambda member: member.name)
    names = _val_classes(devkit)
    if len(names) != len(members):
        raise ValueError(f"{val}: holds {len(members):,} images, {devkit} labels {len(names):,}; get both again")
    unknown = sorted(set(names) - set(labels))
    if unknown:
        raise ValueError(f"{devkit}: class {unknown[0]} is not in the training archive; get all three again")
    stamp = val.stat().st_mtime_ns
    named = [
        member.entry(labels[name], stamp)._replace(name=f"val/{name}/{member.name}")
        for name, member in zip(names, members, strict=True)
    ]
    # The order of a tree of class folders.
    return sorted(named, key=lambda entry: entry.name)


def _val_classes(devkit: Path) -> list[str]:
    """The WordNet id of each validation image, in the order of their numbers."""
    from scipy.io import loadmat

    contents = _read_devkit(devkit)
    try:
        synsets = loadmat(io.BytesIO(contents[_META]), squeeze_me=True, struct_as_record=True)["synsets"]
        ids = {int(number): str(name) for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return [ids[int(line)] for line in contents[_TRUTH].decode().split()]
    except (KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{devkit}: its labels cannot be read ({error!r}); get it again") from error


def _read_devkit(devkit: Path) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(devkit, "r:gz") as archive:
            for info in archive:
                name = info.name.removeprefix("./")
                if name in (_META, _TRUTH) and info.isreg() and info.size <= MAX_MEMBER_BYTES:
                    stream = archive.extractfile(info)
                    assert stream is not None, "a regular file"
                    found[name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{devkit}: is damaged ({error}); get it again") from error
    missing = [name for name in (_META, _TRUTH) if name not in found]
    if missing:
        raise ValueError(f"{devkit}: holds no {missing[0]}; get it again")
    return found
