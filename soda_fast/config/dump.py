"""A configuration as YAML that any YAML reader, and `load_config`, reads back as the same values."""

from dataclasses import asdict
from typing import Any

import yaml

from soda_fast.config.schema import Config
from soda_fast.config.yaml_text import scalar


class _Dumper(yaml.SafeDumper):
    """Lists in one line; quotes around text that PyYAML or our own reader would take for something else."""


def _list(dumper: yaml.SafeDumper, value: Any) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = None if isinstance(scalar(value), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)
_Dumper.add_representer(str, _text)


def to_yaml(config: Config) -> str:
    """Every key with its value, in the order of the schema. Loads back to an equal `Config`."""
    text: str = yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
