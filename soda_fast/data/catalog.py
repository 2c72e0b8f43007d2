"""Data sets by name."""

from dataclasses import dataclass, replace
from pathlib import Path

from soda_fast.config.schema import DataConfig
from soda_fast.data.cifar import load_cifar
from soda_fast.data.dataset import RGB, Dataset
from soda_fast.data.digits import load_digits
from soda_fast.data.executor import default_threads
from soda_fast.data.folder import list_folder, list_split, train_classes
from soda_fast.data.folder import note_of as folder_note
from soda_fast.data.image_files import measure, scan
from soda_fast.data.image_set import ImageSet
from soda_fast.data.pairs import check_pairs
from soda_fast.data.poses import Poses
from soda_fast.data.resident import CIFAR_BYTES, load_resident_cifar, make_resident
from soda_fast.data.shard_images import load_store
from soda_fast.data.tiny_imagenet import list_tiny_imagenet, tree_of
from soda_fast.data.unreadable import check_policy
from soda_fast.data.webdataset import load_webdataset
from soda_fast.data.webdataset import note_of as webdataset_note
from soda_fast.store.layout import Manifest, find_store

__all__ = ["Dataset", "count_train_images", "known_statistics", "known_train_images", "load_dataset"]


@dataclass(frozen=True)
class _Known:
    train_images: int
    mean: RGB
    std: RGB


_KNOWN = {
    "digits": _Known(1_437, (0.3058, 0.3058, 0.3058), (0.3761, 0.3761, 0.3761)),
    "cifar10": _Known(50_000, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": _Known(50_000, (0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023)),
    "tiny_imagenet": _Known(100_000, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
    "imagenet": _Known(1_281_167, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def known_train_images(name: str) -> int | None:
    """Training images of an official data set, its files not needed; None for other data sets."""
    return _KNOWN[name].train_images if name in _KNOWN else None


def count_train_images(data: DataConfig) -> int:
    """Training images of what lies in data.root, a store or a tree, which may be a part of an official data set; where
    nothing lies, of the whole of it. No image is decoded; of shards the index is made that training reads too.

    Raises:
        ValueError: as `load_dataset`.
    """
    name, root = data.dataset, Path(data.root)
    store = None if name == "digits" else find_store(root, name)
    if store is not None:
        return Manifest.read(store).splits["train"].images
    known = known_train_images(name)
    if known is None:
        return len(load_dataset(replace(data, resident_mib=0, mean=(0.5,) * 3, std=(0.5,) * 3)).train)
    tree = {"imagenet": root, "tiny_imagenet": tree_of(root)}.get(name)
    if tree is None or not (tree / "train").is_dir():
        return known
    classes = train_classes(tree)
    return len(list_split(tree / "train", classes, classes)[0])


def known_statistics(name: str) -> tuple[RGB, RGB]:
    """Mean and deviation of an official data set, its files not needed. Raises ValueError for others."""
    if name not in _KNOWN:
        raise ValueError(
            f"data.dataset {name}: mean and deviation are not known beforehand; give data.mean and data.std"
        )
    return _KNOWN[name].mean, _KNOWN[name].std


def load_dataset(data: DataConfig) -> Dataset:
    """Find the images and read what is needed to plan their views. data.mean and data.std come before the known ones.

    Raises:
        ValueError: files are missing, damaged or unusable; names them and the remedy.
    """
    found, found_test, class_names = _load_images(data.dataset, Path(data.root), data.resident_mib << 20)
    poses = Poses(found, Path(data.root))
    test_poses = None if found_test is None else Poses(found_test, Path(data.root))
    train = _usable(found, "train", data)
    test = None if found_test is None else _usable(found_test, "test", data)
    if data.pairs:
        check_pairs(train, class_names)
    mean, std = data.mean, data.std
    if mean is None or std is None:
        own_mean, own_std = (
            known_statistics(data.dataset)
            if data.dataset in _KNOWN
            else measure(train, skip_unreadable=data.on_unreadable == "replace")
        )
        mean, std = mean or own_mean, std or own_std
    if min(std) <= 0:
        raise ValueError(f"data.std is {list(std)}; every channel's deviation must be positive")
    return Dataset(data.dataset, train, test, class_names, mean, std, poses, test_poses, _note(data))


def _note(data: DataConfig) -> str | None:
    root = Path(data.root)
    note_of = {"folder": folder_note, "imagenet": folder_note, "webdataset": webdataset_note}.get(data.dataset)
    return None if note_of is None or find_store(root, data.dataset) is not None else note_of(root)


def _usable(images: ImageSet, split: str, data: DataConfig) -> ImageSet:
    """A split, decoded if it is small, and checked for images that cannot be."""
    images = make_resident(
        images, Path(data.root), f"{data.dataset}-{split}", data.resident_mib << 20, default_threads()
    )
    check_policy(images, split, data.on_unreadable, data.unreadable_limit)
    return images


def _load_images(name: str, root: Path, resident_bytes: int) -> tuple[ImageSet, ImageSet | None, tuple[str, ...]]:
    """From the store if there is one, else from what the data set is published as."""
    if name == "digits":
        return load_digits()
    if not root.is_dir():
        raise ValueError(f"data.root {root}: is not a folder; create it, or point data.root to the images of {name}")
    store = find_store(root, name)
    if store is not None:
        return load_store(store)
    if name in ("cifar10", "cifar100"):
        return load_resident_cifar(name, root) if resident_bytes >= CIFAR_BYTES else load_cifar(name, root)
    if name == "webdataset":
        return load_webdataset(root)
    if name == "coil100":
        raise ValueError(
            f"data.root {root}: holds no coil100-store; make it: soda-fast prepare coil100 --root {root} --source "
            "ARCHIVE_OR_FOLDER"
        )
    classes, train, test = list_tiny_imagenet(root) if name == "tiny_imagenet" else list_folder(root)
    return scan(*train), None if test is None else scan(*test), tuple(classes)
