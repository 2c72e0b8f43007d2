"""Mistakes in a configuration: what is wrong, where it was written, and the error that says so."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_SHOWN = 80


class ConfigError(ValueError):
    """A mistake in a configuration. Its text is one sentence for the user: place, key, value, remedy."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a value was written. Files sort before the command line, and lines by number."""

    order: int
    text: str


NOWHERE = Place(0, "")
COMMAND_LINE = Place(2**31, "command line")


def in_file(name: str, line: int | None = None) -> Place:
    """A line, counted from 1, of a file; or the file as a whole."""
    return Place(0, name) if line is None else Place(line, f"{name}:{line}")


@dataclass(frozen=True)
class Located:
    """A value and where it was written. Mappings hold `Located` values, lists plain ones."""

    value: Any
    place: Place

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


@dataclass(frozen=True)
class Problem:
    """One mistake."""

    place: Place
    text: str


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the mistake that stands first, and say how many follow it. Do nothing without mistakes."""
    if not problems:
        return
    first = min(problems, key=lambda problem: problem.place)
    prefix = f"{first.place.text}: " if first.place.text else ""
    others = len(problems) - 1
    suffix = f" ({others} more mistake{'s' if others > 1 else ''} after this one)" if others else ""
    # A quoted key may hold line breaks; the sentence may not.
    raise ConfigError((prefix + first.text + suffix).replace("\n", " "))


def show(value: Any) -> str:
    """A value as a user would write it in YAML, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, skipkeys=True, default=repr)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
