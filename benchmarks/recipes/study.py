"""What a study is: arms, seeds, a budget; and the runs that it amounts to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from soda_fast.config import Config, load_config

_STRICT = ConfigDict(extra="forbid")


@dataclass(config=_STRICT, frozen=True)
class Budget:
    """How far each arm is trained. Exactly one of: images; minutes of one seed's training at the rate that is measured
    first; flops, of the networks' forward and backward passes."""

    images: Annotated[int, Field(gt=0)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    flops: Annotated[float, Field(gt=0)] | None = None


@dataclass(config=_STRICT, frozen=True)
class Study:
    """A study's file.

    question: what is asked, in a sentence. config: the configuration that all arms share; relative to the study's file.
    overrides: `section.key=value` for all. arms: more of them by the arm's name; the first is what the others are
    compared with. grid: values by key; every arm is run with every combination.
    """

    question: str
    config: str
    budget: Budget
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    overrides: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"as configured": ()})
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One configuration of a study: its name, and the overrides that make it."""

    name: str
    overrides: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The name, as a file's."""
        return re.sub(r"[^A-Za-z0-9._=-]+", "_", self.name)


def read_study(path: Path) -> Study:
    """A study from its YAML file.

    Raises:
        ValueError: it is not one, or one of its arms is not a valid configuration; says where.
    """
    try:
        study = TypeAdapter(Study).validate_python(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the file"
        raise ValueError(f"{path}: {where}: {first['msg']}") from error
    given = [name for name in ("images", "minutes", "flops") if getattr(study.budget, name) is not None]
    if len(given) != 1:
        raise ValueError(f"{path}: budget has {', '.join(given) or 'nothing'}; give one of images, minutes, flops")
    return study


def arms_of(study: Study) -> list[Arm]:
    """Every arm with every combination of the grid."""
    keys = list(study.grid)
    found = []
    for (name, overrides), values in product(study.arms.items(), product(*study.grid.values())):
        chosen = [f"{key}={yaml_value(value)}" for key, value in zip(keys, values, strict=True)]
        named = [name] * (name != "as configured" or not chosen) + chosen
        found.append(Arm(" ".join(named), (*overrides, *chosen)))
    return found


def yaml_value(value: Any) -> str:
    """A value as it is written after `key=`."""
    return str(yaml.safe_dump(value, default_flow_style=True)).removesuffix("...\n").strip()


def configuration(study: Study, arm: Arm, file: Path, more: Sequence[str] = ()) -> Config:
    """An arm's configuration, as `soda-fast train` will read it.

    Raises:
        ValueError: as `soda_fast.config.load_config`, with the arm's name.
    """
    try:
        return load_config(config_path(study, file), [*study.overrides, *arm.overrides, *more])
    except ValueError as error:
        raise ValueError(f"{file}: arm {arm.name!r}: {error}") from error


def config_path(study: Study, file: Path) -> Path:
    """Where the shared configuration is."""
    return (file.parent / study.config).resolve()


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """{"train.images": 5} -> ["train.images=5"]."""
    return [f"{key}={yaml_value(value)}" for key, value in values.items()]
