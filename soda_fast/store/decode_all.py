"""Every image decoded, in worker processes: which cannot be, and what is unusual about the others."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from soda_fast.store import workers
from soda_fast.store.entries import Entry
from soda_fast.store.pictures import PictureError, decode, read_header

_IMAGES_PER_TASK = 500


class Findings(NamedTuple):
    """unreadable: (name, cause). traits: how many images have each unusual trait."""

    unreadable: list[tuple[str, str]]
    traits: Counter[str]


def check_entries(entries: Sequence[Entry], processes: int | None = None) -> Findings:
    """Decode all images, in processes of their own."""
    starts = range(0, len(entries), _IMAGES_PER_TASK)
    tasks = [entries[start : start + _IMAGES_PER_TASK] for start in starts]
    parts = workers.run(_decode_all, tasks, len(entries), "checking", processes)
    unreadable = [found for part in parts for found in part.unreadable]
    return Findings(unreadable, sum((part.traits for part in parts), Counter()))


def _decode_all(entries: Sequence[Entry], advance: Callable[[], None]) -> Findings:
    unreadable: list[tuple[str, str]] = []
    traits: Counter[str] = Counter()
    for entry in entries:
        content = entry.origin.read()
        try:
            traits.update(read_header(content).traits)
            decode(content)
        except PictureError as error:
            unreadable.append((entry.name, str(error)))
        advance()
    return Findings(unreadable, traits)
