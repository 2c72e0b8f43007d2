"""Where the samples of one WebDataset shard are: read by a worker process, header by header."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from soda_fast.store.entries import FileRange
from soda_fast.store.pictures import inspect
from soda_fast.store.shard import Row
from soda_fast.store.suffixes import OTHERS, SUFFIXES, refuse_others
from soda_fast.store.tar_end import require_end

_IMAGES, _OTHERS = ({suffix[1:] for suffix in suffixes} for suffixes in (SUFFIXES, OTHERS))


def rows_of(task: tuple[int, str], advance: Callable[[], None]) -> list[Row]:
    """layout.ROW of each sample of a shard, in the shard's order.

    Args:
        task: the shard's number and its path.
        advance: called when done.

    Raises:
        ValueError: damaged, compressed, an image without a label or of a format that is not read; names the shard and
            the sample.
    """
    number, path = task
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    others: dict[str, str] = {}
    size = Path(path).stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                folder, _, file = info.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key, suffix = f"{folder}/{stem}", suffix.lower()
                if suffix in _OTHERS:
                    others[key] = info.name
                if not info.isreg() or info.sparse or suffix not in (*_IMAGES, "cls", "json"):
                    continue
                if info.offset_data + info.size > size:
                    raise ValueError(f"{path}: ends inside {info.name}; get or make the shard again")
                content = FileRange(path, info.offset_data, info.size)
                if suffix not in _IMAGES:
                    found = _label(suffix, content, f"{path}, {info.name}")
                    if found is not None:
                        labels[key] = found
                elif key in images:
                    raise ValueError(f"{path}: sample {stem} has two images or comes twice; make the shard again")
                else:
                    images[key] = (info.offset_data, info.size)
            require_end(archive, path)
    except (tarfile.TarError, RecursionError) as error:
        raise ValueError(f"{path}: is no whole uncompressed tar ({error}); get or make the shard again") from error
    refuse_others(path, [name for key, name in others.items() if key not in images])
    missing = [key for key in images if key not in labels]
    if missing:
        raise ValueError(f"{path}: sample {missing[0].lstrip('/')} has no label in a .cls or .json file beside it")
    rows = [_row(number, path, *place, labels[key]) for key, place in images.items()]
    advance()
    return rows


def _label(suffix: str, content: FileRange, name: str) -> int | None:
    """A class's number; None for a .json that names none, whose .cls then must."""
    text = content.read()
    try:
        if suffix == "cls":
            label = int(text)
        else:
            tree = json.loads(text)
            found = [tree[key] for key in ("label", "cls", "class") if isinstance(tree, dict) and key in tree]
            found = [tree] if isinstance(tree, int) else found
            if not found:
                return None
            label = int(found[0])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: holds no class's number; labels are integers from 0 on") from error
    if not 0 <= label < 2**31:
        raise ValueError(f"{name}: holds {label}; labels are integers from 0 on, below 2**31")
    return label


def _row(number: int, path: str, offset: int, length: int, label: int) -> Row:
    seen = inspect(FileRange(path, offset, length).read())
    return number, int(seen.plain), offset, length, label, seen.height, seen.width
