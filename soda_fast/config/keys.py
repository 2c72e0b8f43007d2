"""The keys of the schema as flat tables of dotted names, and what each key accepts, in words."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from soda_fast.config.schema import Config

COMPARISONS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
# The bound of a 64-bit number goes without saying; it is named only to somebody who exceeds it.
UNSAID_BOUND = 2**63


@dataclass(frozen=True)
class Key:
    """One key: its type, its default, and in words what it accepts."""

    annotation: Any
    default: Any
    accepts: str


def walk(section: type, prefix: str = "") -> Iterator[tuple[str, type | Key]]:
    """Every section (as its class) and every key below `section`, in the order of the schema."""
    hints = get_type_hints(section, include_extras=True)
    for item in fields(section):
        name, hint = prefix + item.name, hints[item.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield name, hint
            yield from walk(hint, name + ".")
        else:
            default = item.default if item.default is not MISSING else None
            yield name, Key(hint, default, describe(hint))


def describe(annotation: Any) -> str:
    """What a type accepts, in words that finish the sentence "expected ..."."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_bounds(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        return ", or ".join(describe(argument) for argument in arguments).replace("auto, or true", "auto, true")
    if origin is Literal:
        choices = ", ".join(str(argument) for argument in arguments)
        return f"one of {choices}" if len(arguments) > 1 else choices
    if origin is tuple:
        many = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {many}values, each {describe(arguments[0])}"
    if origin is dict:
        return f"a mapping from {describe(arguments[0])} to {describe(arguments[1])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}[annotation]


def _with_bounds(base: Any, metadata: tuple[Any, ...]) -> str:
    constraints = [one for info in metadata if isinstance(info, FieldInfo) for one in info.metadata]
    bounds = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in constraints
        for name, sign in COMPARISONS
        if getattr(constraint, name, UNSAID_BOUND) != UNSAID_BOUND
    ]
    not_empty = any(getattr(constraint, "min_length", 0) for constraint in constraints)
    text = describe(base)
    if not_empty:
        text = text.replace("a list of", "a list of at least one of", 1).replace("one of values", "one value", 1)
    return " ".join([text, " and ".join(bounds)]).strip()


_TABLE = dict(walk(Config))
KEYS: dict[str, Key] = {name: item for name, item in _TABLE.items() if isinstance(item, Key)}
SECTIONS: dict[str, type] = {name: item for name, item in _TABLE.items() if isinstance(item, type)}


def keys_of(section: str) -> list[str]:
    """Dotted names directly in a section: its keys and its sections. The empty name is the top."""
    return [name for name in _TABLE if name.rpartition(".")[0] == section]
