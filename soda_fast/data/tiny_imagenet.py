"""Tiny-ImageNet (Stanford CS231n) in its official tree; as many classes as there are."""

from pathlib import Path

import numpy as np

from soda_fast.data.folder import load_folder_split, train_classes
from soda_fast.data.image_files import scan
from soda_fast.data.image_set import FileImages

FOLDER = "tiny-imagenet-200"
_ANNOTATIONS = "val_annotations.txt"


def load_tiny_imagenet(root: Path) -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """Train, the official validation split as test, and the classes' names (WordNet ids).

    Args:
        root: the folder that holds tiny-imagenet-200/, or that folder itself.

    Raises:
        ValueError: a part of the tree is missing or inconsistent, or an image is unusable.
    """
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    classes = train_classes(root)
    paths, labels = _annotated(root / "val", classes)
    return load_folder_split(root / "train", classes, classes), scan(paths, labels), tuple(classes)


def _annotated(val: Path, classes: list[str]) -> tuple[list[Path], np.ndarray]:
    """Files and labels, in the order of val_annotations.txt: a line is file, class, and a box that is not needed."""
    annotations = val / _ANNOTATIONS
    try:
        lines = annotations.read_text().splitlines()
    except OSError as error:
        raise ValueError(
            f"{annotations}: cannot be read ({error.strerror}); unpack the official tiny-imagenet-200.zip again"
        ) from error
    labels_of = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        file, _, rest = line.partition("\t")
        name = rest.split("\t")[0]
        if name not in labels_of:
            raise ValueError(
                f"{annotations}, line {number}: class {name!r} is not a folder of train/; unpack the official "
                "tiny-imagenet-200.zip again"
            )
        paths.append(val / "images" / file)
        labels.append(labels_of[name])
    if not paths:
        raise ValueError(f"{annotations}: is empty; unpack the official tiny-imagenet-200.zip again")
    return paths, np.array(labels, np.int64)
