"""Figures as a file that is whole whenever somebody looks: a benchmark may be cut off at any time."""

import json
from pathlib import Path
from typing import Any

from soda_fast.files import write_atomically


def write_json(path: Path, value: Any) -> None:
    """The value as JSON, or what was there before."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
