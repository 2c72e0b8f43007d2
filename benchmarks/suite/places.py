"""Places of a machine out of what is kept of it: a record is published, and tells nobody's folders."""

import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_SHORTEST_HOST = 4


def places_of(out: Path, data: Path | None) -> dict[str, str]:
    """What stands for the folders of results, images and temporary files, for interpreter, checkout and machine."""
    found = {str(out): "DIR", sys.executable: "python", sys.prefix: "PYTHON", sys.base_prefix: "PYTHON"}
    found |= {str(ROOT): "CHECKOUT", str(Path.home()): "HOME", tempfile.gettempdir(): "TMP"}
    if data is not None:
        found[str(data)] = "DATA"
    if len(platform.node()) >= _SHORTEST_HOST and platform.node() != "localhost":
        found[platform.node()] = "HOST"
    return {place: name for place, name in found.items() if place not in ("", "/")}


def without_places(value: Any, places: Mapping[str, str]) -> Any:
    """JSON with every place in its strings replaced, the longest first."""
    if isinstance(value, str):
        for place in sorted(places, key=len, reverse=True):
            value = value.replace(place, places[place])
        return value
    if isinstance(value, list):
        return [without_places(one, places) for one in value]
    if isinstance(value, dict):
        return {name: without_places(one, places) for name, one in value.items()}
    return value
