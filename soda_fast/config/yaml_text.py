"""YAML text to values that remember their line: a small, safe part of YAML that reads the same everywhere.

Scalars follow YAML 1.2, so that 1e-3 is a number, and yes, 010 and 1:30 are not a truth, eight and ninety. Tags,
anchors and aliases are refused: a configuration needs none, and none can then build objects or grow without bound.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from soda_fast.config.problems import ConfigError, Located, Place, in_file

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
LONGEST_NUMBER = 40
DEEPEST = 20


def scalar(text: str) -> Any:
    """The value of an unquoted YAML scalar."""
    lower = text.lower()
    if lower in WORDS:
        return WORDS[lower]
    if lower in NOT_FINITE:
        return NOT_FINITE[lower]
    if len(text) > LONGEST_NUMBER:  # Python itself refuses to read integers of thousands of digits.
        return text
    if INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if FLOAT.fullmatch(text) and not re.match(r"[-+]?0[0-9]", text):
        return float(text)
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used only to compose nodes; refuses what a configuration does not need."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        peek: Callable[[], Any] = self.peek_event
        event = peek()
        refusal = self._refusal(event)
        if refusal:
            raise yaml.MarkedYAMLError(problem=refusal, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refusal(self, event: Any) -> str | None:
        if getattr(event, "anchor", None) is not None:
            return "anchors and aliases are not supported"
        if getattr(event, "tag", None) is not None:
            return "tags (!...) are not supported"
        return "nested too deeply" if self.depth > DEEPEST else None


def parse(text: str, name: str, place: Place | None = None) -> Located:
    """Read YAML from the file `name`, where places are lines; or the value of the key `name` written at `place`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_error(error, name, place)) from None
    if node is None:
        return Located(None, place or in_file(name))
    return _build(node, name, place, place or in_file(name, node.start_mark.line + 1))


def _build(node: yaml.Node, name: str, place: Place | None, here: Place) -> Located:
    if isinstance(node, yaml.MappingNode):
        return Located(_mapping(node, name, place), here)
    if isinstance(node, yaml.SequenceNode):
        return Located([_build(child, name, place, here).plain() for child in node.value], here)
    quoted = getattr(node, "style", None) is not None
    return Located(node.value if quoted else scalar(node.value), here)


def _mapping(node: yaml.MappingNode, name: str, place: Place | None) -> dict[str, Located]:
    found: dict[str, Located] = {}
    for key, child in node.value:
        here = place or in_file(name, key.start_mark.line + 1)
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{here.text}: a key must be a name, not a list or a mapping")
        if key.value in found:
            first = found[key.value].place.text
            raise ConfigError(f"{here.text}: {key.value}: written twice, first at {first}; keep one")
        found[key.value] = _build(child, name, place, here)
    return found


def _syntax_error(error: yaml.YAMLError, name: str, place: Place | None) -> str:
    """One line out of PyYAML's several."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    if place:
        return f"{place.text}: {name}: not valid YAML: {what}"
    return f"{name}:{mark.line + 1}: not valid YAML at column {mark.column + 1}: {what}" if mark else f"{name}: {what}"
