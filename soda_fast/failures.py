"""RUN/failures: what is needed to repeat the step at which a training stopped.

failures/images-000000012800/failure.json   configuration, images_seen, and for each process and accumulation part
                                            the positions, data set indices, timesteps and losses of its samples
                             weights/       the model before the step, as in a checkpoint
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soda_fast.config import Config, config_from_tree
from soda_fast.files import write_atomically

NAME = "failure.json"


@dataclass(frozen=True)
class Failure:
    """A step that was not finite. findings: `training.diagnosis.Finding`s as dicts."""

    config: Config
    images_seen: int
    weights: Path
    findings: list[dict[str, Any]]


def failure_path(root: Path, images_seen: int) -> Path:
    """The folder of a step's failure."""
    return root / f"images-{images_seen:012d}"


def prepare(root: Path, images_seen: int) -> None:
    """An empty folder for a step's failure. Earlier ones go: each holds a copy of the weights."""
    shutil.rmtree(root, ignore_errors=True)
    failure_path(root, images_seen).mkdir(parents=True)


def write(root: Path, config: Config, images_seen: int, findings: Sequence[Any]) -> None:
    """Write failure.json; after the weights, because it makes the failure complete."""
    found = {"images_seen": images_seen, "seed": config.run.seed, "findings": [asdict(f) for f in findings]}
    found["config"] = asdict(config)
    write_atomically(failure_path(root, images_seen) / NAME, json.dumps(found, indent=1).encode())


def newest(root: Path) -> Failure:
    """The last recorded failure.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    paths = sorted(root.glob(f"images-*/{NAME}"))
    if not paths:
        raise ValueError(f"{root.parent} has no recorded failure: {root} holds none")
    try:
        found = json.loads(paths[-1].read_text())
        config = config_from_tree(found["config"])
        return Failure(config, int(found["images_seen"]), paths[-1].parent / "weights", found["findings"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{paths[-1]} cannot be read ({type(error).__name__}: {error})") from error
