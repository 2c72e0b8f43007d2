"""The help text of a configuration: every key with what it accepts, its default and its meaning."""

from inspect import getdoc
from textwrap import fill
from typing import Any

from pydantic import TypeAdapter

from soda_fast.config.keys import KEYS, SECTIONS, keys_of
from soda_fast.config.problems import show
from soda_fast.config.schema import Config

WIDTH = 100
INTRODUCTION = (
    "Keys of a configuration file, and of the command line as section.key=value. "
    "Progress and intervals are counted in images."
)


def help_text() -> str:
    """All sections and their keys, readable in a terminal of 100 columns."""
    documentation = documentation_of_keys()
    paragraphs = [_fill(INTRODUCTION, 0)]
    for section, cls in SECTIONS.items():
        paragraphs.append(_fill(f"{section}: {getdoc(cls)}", 0))
        paragraphs.extend(_key(name, documentation[name]) for name in keys_of(section) if name in KEYS)
    return "\n\n".join(paragraphs) + "\n"


def documentation_of_keys() -> dict[str, str]:
    """The text under each key in the schema; empty for a key without."""
    schema: dict[str, Any] = TypeAdapter(Config).json_schema()
    found = {}
    for name in KEYS:
        section, _, key = name.rpartition(".")
        properties = schema["$defs"][SECTIONS[section].__name__]["properties"]
        found[name] = " ".join(properties[key].get("description", "").split())
    return found


def _key(name: str, documentation: str) -> str:
    accepts = _fill(f"{KEYS[name].accepts} [default: {_default(KEYS[name].default)}]", 6)
    return f"  {name}\n{accepts}\n{_fill(documentation, 6)}"


def _default(value: Any) -> str:
    """A default as YAML; text stands without quotes, except if it is empty."""
    return value if isinstance(value, str) and value else show(value)


def _fill(text: str, indent: int) -> str:
    margin = " " * indent
    return fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False)
