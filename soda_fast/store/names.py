"""What a person calls an image of a shard: its name in the tar, and before it was stored."""

import json
import tarfile
from itertools import islice
from pathlib import Path

_BLOCK = 512


def member_name(shard: Path, offset: int) -> str:
    """The tar member whose bytes start at `offset`, from the header before them; by its place if that is unreadable."""
    try:
        with shard.open("rb") as file:
            file.seek(offset - _BLOCK)
            return tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape").name
    except (OSError, tarfile.HeaderError):
        return f"the image at byte {offset:,}"


def all_names(names: Path) -> list[str]:
    """The names that a split's images had before they were stored. Raises ValueError where that list is damaged."""
    try:
        return [str(json.loads(line)) for line in names.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{names}: cannot be read ({error}); prepare the data set again") from error


def original_name(names: Path, number: int) -> str | None:
    """The name that image `number` of a store's split had before it was stored; None without that list."""
    try:
        with names.open(encoding="utf-8") as lines:
            line = next(islice(lines, number, None), None)
            return None if line is None else str(json.loads(line))
    except (OSError, json.JSONDecodeError):
        return None
