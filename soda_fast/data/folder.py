"""Any tree of class folders under train/, and optionally test/ or val/."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_files import find_images
from soda_fast.store.suffixes import LISTED

Listing = tuple[list[Path], NDArray[np.int64]]
"""Files and their labels."""


def list_folder(root: Path) -> tuple[list[str], Listing, Listing | None]:
    """The classes' names, train, and test.

    Classes are the folders in root/train, in the order of their names. The test split is root/test; where there is
    none, root/val; with neither, None.

    Raises:
        ValueError: no train/, no classes, a class without images, or a test class that train lacks.
    """
    classes = train_classes(root)
    train = list_split(root / "train", classes, classes)
    tests = [root / name for name in ("test", "val") if (root / name).is_dir()]
    if not tests:
        return classes, train, None
    test_classes = _class_folders(tests[0])
    unknown = [name for name in test_classes if name not in classes]
    if unknown:
        raise ValueError(
            f"{tests[0] / unknown[0]}: is a class that {root / 'train'} does not have; rename, add or remove it"
        )
    return classes, train, list_split(tests[0], test_classes, classes)


def both_splits(where: str | Path, has_test: bool, has_val: bool) -> str | None:
    """A sentence where one of two splits is taken for the test split."""
    if not (has_test and has_val):
        return None
    return f"{where}: holds both test/ and val/; test/ is the test split, and val/ is not read"


def note_of(root: Path) -> str | None:
    """What a user should know of how a tree's splits were found."""
    return both_splits(root, (root / "test").is_dir(), (root / "val").is_dir())


def train_classes(root: Path) -> list[str]:
    """Sorted names of the folders in root/train. Raises ValueError if there are none."""
    return _class_folders(root / "train")


def _class_folders(split: Path) -> list[str]:
    """Sorted names of the class folders of one split."""
    if not split.is_dir():
        raise ValueError(
            f"data.root {split.parent}: has no folder {split.name}/; put one folder for each class into it"
        )
    names = sorted(entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{split}: holds no class folders; put one folder of images for each class into it")
    return names


def list_split(split: Path, names: list[str], classes: list[str]) -> Listing:
    """The images of the class folders `names` in `split`; their labels are their places in `classes`."""
    labels_of = {name: label for label, name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        found = find_images(split / name)
        if not found:
            raise ValueError(f"{split / name}: holds no {LISTED} file; add images or remove the folder")
        paths += found
        labels += [labels_of[name]] * len(found)
    return paths, np.array(labels, np.int64)
