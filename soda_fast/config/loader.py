"""A configuration from a YAML file and the command line. Every mistake is a `ConfigError` of one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from soda_fast.config import overrides as command_line
from soda_fast.config.keys import KEYS, SECTIONS, UNSAID_BOUND
from soda_fast.config.problems import NOWHERE, ConfigError, Located, Place, Problem, in_file, raise_first, show
from soda_fast.config.rules import contradictions
from soda_fast.config.schema import Config
from soda_fast.config.suggest import unknown_key
from soda_fast.config.yaml_text import parse, scalar

LARGEST_FILE = 1024 * 1024


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, write the overrides `section.key=value` over it, and check everything.

    Keys that are not given have their defaults; an empty `run.dir` becomes runs/ and the file's name.
    """
    document = parse(_read(Path(path)), str(path))
    problems: list[Problem] = []
    found = _gather(document, problems)
    command_line.apply(overrides, found, problems)
    config = _validate(found, problems, in_file(str(path)))
    if config.run.dir:
        return config
    return replace(config, run=replace(config.run, dir=str(Path("runs") / Path(path).stem)))


def config_from_tree(tree: Mapping[str, Any]) -> Config:
    """Check nested mappings, such as a parsed config.json or `dataclasses.asdict(config)`."""
    problems: list[Problem] = []
    found = _gather(_locate(tree), problems)
    return _validate(found, problems, NOWHERE)


def _read(path: Path) -> str:
    """The file's text; refused before it is read if it is not a file of a sensible size."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: this is a folder; expected a YAML file")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file; expected a YAML file")
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than 1 MiB; expected a configuration of a few kilobytes")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a YAML configuration, as those in configs/") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except ConfigError:
        raise
    except ValueError as error:  # a null character in the path
        raise ConfigError(f"{str(path)!r}: not a path: {error}") from None


def _locate(value: Any) -> Located:
    if isinstance(value, Mapping):
        return Located({str(key): _locate(item) for key, item in value.items()}, NOWHERE)
    return Located(value, NOWHERE)


def _gather(document: Located, problems: list[Problem]) -> dict[str, Located]:
    """The keys that are given, under their dotted names."""
    found: dict[str, Located] = {}
    if isinstance(document.value, dict):
        _gather_section(document.value, "", found, problems)
    elif document.value is not None:
        text = f"found {show(document.value)}, expected sections and their keys, as in `train: {{images: 1000}}`"
        raise_first([Problem(document.place, text)])
    return found


def _gather_section(
    section: dict[str, Located], prefix: str, found: dict[str, Located], problems: list[Problem]
) -> None:
    for key, item in section.items():
        name = prefix + key
        if "." in key and (name in KEYS or name in SECTIONS):
            parent, _, last = name.rpartition(".")
            problems.append(Problem(item.place, f"{name}: write {last} inside of the section {parent} in a file"))
        elif name in KEYS:
            found[name] = item
        elif name not in SECTIONS:
            problems.append(Problem(item.place, unknown_key(name, isinstance(item.value, dict))))
        elif isinstance(item.value, dict):
            _gather_section(item.value, name + ".", found, problems)
        else:
            text = f"{name}: found {show(item.plain())}, expected the keys of this section, indented below it"
            problems.append(Problem(item.place, text))


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _validate(found: dict[str, Located], problems: list[Problem], whole: Place) -> Config:
    """Types and ranges of each key first, then the rules between keys."""
    config = None
    try:
        config = _adapter().validate_python(_nest(found))
    except ValidationError as error:
        wrong = dict.fromkeys(_key_of(detail["loc"]) for detail in error.errors(include_url=False))
        problems.extend(Problem(found[name].place, _wrong_value(name, found[name].plain())) for name in wrong)
    raise_first(problems)
    assert config is not None, "pydantic's errors are problems"
    raise_first([_with_place(names, text, found, whole) for names, text in contradictions(config)])
    return config


def _nest(found: dict[str, Located]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, item in found.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = item.plain()
    return tree


def _key_of(location: tuple[int | str, ...]) -> str:
    """The key at fault, without the place in a list and the branch of a union that pydantic adds to it."""
    names = (".".join(str(part) for part in location[:count]) for count in range(1, len(location) + 1))
    return next(name for name in names if name in KEYS)


def _wrong_value(name: str, value: Any) -> str:
    return f"{name}: found {show(value)}, expected {KEYS[name].accepts}{_hint(value, KEYS[name].accepts)}"


def _hint(value: Any, accepts: str) -> str:
    """What to write instead, where the intention is plain."""
    if isinstance(value, float) and value.is_integer() and "whole number" in accepts:
        return f" (write {int(value)})"
    if isinstance(value, int) and value >= UNSAID_BOUND:
        return " (and < 2**63)"
    if isinstance(value, str) and type(scalar(value)) in (int, float) and "number" in accepts:
        return " (write it without quotes)"
    if isinstance(value, int | float) and accepts == "text":
        return " (write it in quotes)"
    return ""


def _with_place(names: Sequence[str], text: str, found: dict[str, Located], whole: Place) -> Problem:
    """A contradiction stands where the last of its keys was written; the file as a whole if all are defaults."""
    places = [found[name].place for name in names if name in found]
    return Problem(max(places, default=whole), text)
