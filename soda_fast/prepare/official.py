"""The official archives: their addresses, sizes, MD5 sums, and how many images a class has.

Sources: https://www.cs.toronto.edu/~kriz/cifar.html, http://cs231n.stanford.edu/tiny-imagenet-200.zip,
https://image-net.org/challenges/LSVRC/2012/; sums as torchvision.datasets and the pages themselves have them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from soda_fast.files import write_atomically


@dataclass(frozen=True)
class Archive:
    """One published file. url: None where one must log in. bytes: None where not known for sure."""

    file: str
    md5: str
    url: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Official:
    """A published data set. archives: those that can be verified. classes: how many. images: {split: images of each
    class, (fewest, most)}. totals: {split: of all classes}."""

    archives: tuple[Archive, ...]
    classes: int
    images: Mapping[str, tuple[int, int]]
    totals: Mapping[str, int] = field(default_factory=dict)
    page: str = ""


WHOLE = "train and test"
"""In place of a split, where the official data set has none."""

_KRIZ, _STANFORD = "https://www.cs.toronto.edu/~kriz", "http://cs231n.stanford.edu"


def _public(file: str, md5: str, folder: str, size: int) -> Archive:
    return Archive(file, md5, f"{folder}/{file}", size)


OFFICIAL = {
    "cifar10": Official(
        archives=(_public("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", _KRIZ, 170_498_071),),
        classes=10,
        images={"train": (5_000, 5_000), "test": (1_000, 1_000)},
    ),
    "cifar100": Official(
        archives=(_public("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", _KRIZ, 169_001_437),),
        classes=100,
        images={"train": (500, 500), "test": (100, 100)},
    ),
    "tiny_imagenet": Official(
        archives=(_public("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de", _STANFORD, 248_100_043),),
        classes=200,
        images={"train": (500, 500), "test": (50, 50)},
    ),
    "imagenet": Official(
        archives=(
            Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
            Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
            Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
        ),
        classes=1_000,
        images={"train": (732, 1_300), "test": (50, 50)},
        totals={"train": 1_281_167, "test": 50_000},
        page="https://image-net.org/download-images.php",
    ),
    "coil100": Official(
        archives=(),  # no sums are published
        classes=100,
        images={WHOLE: (72, 72)},  # which of them are held out is decided here
        page="https://www.cs.columbia.edu/CAVE/software/softlib/coil-100.php",
    ),
}


def md5_of(path: Path, title: str) -> str:
    """MD5 in hexadecimal, with a progress bar."""
    digest = hashlib.md5(usedforsecurity=False)
    total = path.stat().st_size
    with path.open("rb") as file, tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := file.read(4 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def verify(path: Path, archive: Archive, notes: Path) -> None:
    """Compare a file with the official one.

    Args:
        path: the file.
        archive: what it must be.
        notes: a file that remembers what was verified, so that ImageNet's 138 GB are not read at every attempt.

    Raises:
        ValueError: it is another file.
    """
    status = path.stat()
    stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns, archive.md5]
    known = _read_notes(notes)
    if stamp in known:
        return
    found = md5_of(path, f"verifying {path.name}")
    if found != archive.md5:
        raise ValueError(f"{path}: MD5 is {found}, the official file's is {archive.md5}; get the archive again")
    write_atomically(notes, json.dumps([*known, stamp]).encode())


def _read_notes(path: Path) -> list[list[object]]:
    try:
        notes = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return notes if isinstance(notes, list) else []


def check_counts(dataset: str, split: str, counts: Mapping[str, int], part: bool) -> str | None:
    """Compare {class: images} with the official data set's.

    Returns:
        With `part`, what differs, or None.

    Raises:
        ValueError: something differs, without `part`.
    """
    official = OFFICIAL.get(dataset)
    problem = None if official is None else _difference(official, split, counts)
    if problem is None:
        return None
    if part:
        return f"{split}: {problem}"
    raise ValueError(
        f"{dataset}, {split} split: {problem}; get or unpack the data set again, or give --part if a part of it is "
        "what you want"
    )


def _difference(official: Official, split: str, counts: Mapping[str, int]) -> str | None:
    low, high = official.images[split]
    for name, count in counts.items():
        if not low <= count <= high:
            wanted = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            return f"class {name} has {count:,} images, officially {wanted}"
    if len(counts) != official.classes:
        return f"{len(counts):,} classes, officially {official.classes:,}"
    total, wanted_total = sum(counts.values()), official.totals.get(split)
    if wanted_total is not None and total != wanted_total:
        return f"{total:,} images, officially {wanted_total:,}"
    return None
