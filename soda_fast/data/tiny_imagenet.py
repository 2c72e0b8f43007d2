"""Tiny-ImageNet (Stanford CS231n) in its official tree; as many classes as there are."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.folder import Listing, list_split, train_classes

FOLDER = "tiny-imagenet-200"
_ANNOTATIONS = "val_annotations.txt"


def list_tiny_imagenet(root: Path) -> tuple[list[str], Listing, Listing]:
    """The classes' names (WordNet ids), train, and the official validation split as test.

    Args:
        root: the folder that holds tiny-imagenet-200/, or that folder itself.

    Raises:
        ValueError: a part of the tree is missing or inconsistent.
    """
    root = tree_of(root)
    classes = train_classes(root)
    return classes, list_split(root / "train", classes, classes), _annotated(root / "val", classes)


def tree_of(root: Path) -> Path:
    """Where train/ and val/ are: in root/tiny-imagenet-200, or in root itself."""
    return root / FOLDER if (root / FOLDER).is_dir() else root


def _annotated(val: Path, classes: list[str]) -> Listing:
    """Files and labels, in the order of val_annotations.txt."""
    annotations = val / _ANNOTATIONS
    try:
        text = annotations.read_text()
    except OSError as error:
        raise ValueError(
            f"{annotations}: cannot be read ({error.strerror}); unpack the official tiny-imagenet-200.zip again"
        ) from error
    files, labels = read_annotations(text, str(annotations), classes)
    return [val / "images" / file for file in files], labels


def read_annotations(text: str, name: str, classes: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Files and labels of val_annotations.txt: a line is file, class, and a box that is not needed.

    Raises:
        ValueError: no lines, or a class that is not in `classes`; names the file as `name`.
    """
    labels_of = {name: label for label, name in enumerate(classes)}
    files, labels = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        file, _, rest = line.partition("\t")
        found = rest.split("\t")[0]
        if found not in labels_of:
            raise ValueError(
                f"{name}, line {number}: class {found!r} is not a folder of train/; unpack the official "
                "tiny-imagenet-200.zip again"
            )
        if "/" in file:
            raise ValueError(f"{name}, line {number}: {file!r} is not a file name; get the official archive again")
        files.append(file)
        labels.append(labels_of[found])
    if not files:
        raise ValueError(f"{name}: is empty; unpack the official tiny-imagenet-200.zip again")
    return files, np.array(labels, np.int64)
