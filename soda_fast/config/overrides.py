"""`section.key=value` on the command line."""

from collections.abc import Sequence

from soda_fast.config.keys import KEYS, SECTIONS, keys_of
from soda_fast.config.problems import COMMAND_LINE, Located, Problem
from soda_fast.config.suggest import unknown_key
from soda_fast.config.yaml_text import parse

# Two ways to say one length: on the command line, either takes the place of whichever the file has.
ALTERNATIVES = (("train.images", "train.epochs"), ("train.warmup_images", "train.warmup_epochs"))


def apply(overrides: Sequence[str], found: dict[str, Located], problems: list[Problem]) -> None:
    """Write each override over what the file said. The last of several for one key counts, as everywhere."""
    for item in overrides:
        name, equals, text = item.removeprefix("--").partition("=")
        name = name.strip()
        if not equals or not name:
            problems.append(Problem(COMMAND_LINE, f"{item}: expected key=value, as in train.images=1000000"))
        elif name in SECTIONS:
            example = keys_of(name)[0]
            remedy = f"{name}: this is a section; set its keys one by one, as in {example}=..."
            problems.append(Problem(COMMAND_LINE, remedy))
        elif name not in KEYS:
            problems.append(Problem(COMMAND_LINE, unknown_key(name)))
        else:
            _forget_alternatives(name, found)
            found[name] = _value(name, text)


def _forget_alternatives(name: str, found: dict[str, Located]) -> None:
    """Two alternatives that are both on the command line stay a contradiction."""
    for pair in ALTERNATIVES:
        for other in pair:
            if name in pair and other != name and other in found and found[other].place != COMMAND_LINE:
                del found[other]


def _value(name: str, text: str) -> Located:
    """The value as YAML; but as it stands for a key that takes text, since a shell has already removed the quotes."""
    if KEYS[name].annotation is str and text[:1] not in ("'", '"'):
        return Located(text, COMMAND_LINE)
    return parse(text, name, COMMAND_LINE)
