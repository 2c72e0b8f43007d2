"""RUN/failures: what is needed to repeat the step at which a training stopped.

failures/images-000000012800/failure.json   configuration, images_seen, a digest of the images, and for each process and
                                            accumulation part the positions, data set indices, timesteps and losses of
                                            its samples
                             weights/       the model before the step, as in a checkpoint
         .new/                              being written; never read

The newest one stays: an older one goes when it is whole, because each holds a copy of the weights.
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
    """A step that was not finite.

    images: count and sha256 of the training images, as in a checkpoint's manifest.
    findings: `training.diagnosis.StepFinding`s as dicts.
    """

    config: Config
    images_seen: int
    weights: Path
    images: dict[str, Any]
    findings: list[dict[str, Any]]


def failure_path(root: Path, images_seen: int) -> Path:
    """The folder of a step's failure."""
    return root / f"images-{images_seen:012d}"


def new_path(root: Path) -> Path:
    """Where a failure is written before it is complete."""
    return root / ".new"


def prepare(root: Path) -> None:
    """An empty folder at `new_path`."""
    discard(root)
    new_path(root).mkdir(parents=True)


def discard(root: Path) -> None:
    """Remove what could not be completed."""
    shutil.rmtree(new_path(root), ignore_errors=True)


def write(root: Path, config: Config, images_seen: int, images: dict[str, Any], findings: Sequence[Any]) -> None:
    """Write failure.json; after the weights, because it makes the failure complete. Once more to add findings."""
    found: dict[str, Any] = {"images_seen": images_seen, "images": images}
    found["config"] = asdict(config)
    found["findings"] = [asdict(finding) for finding in findings]
    new, final = new_path(root), failure_path(root, images_seen)
    folder = new if new.exists() else final
    write_atomically(folder / NAME, json.dumps(found, indent=1).encode())
    if folder == new:
        if final.exists():
            shutil.rmtree(root / ".old", ignore_errors=True)
            final.rename(root / ".old")
        new.rename(final)
        for other in root.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)


def newest(root: Path) -> Failure:
    """The last recorded failure.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    paths = list(root.glob(f"images-*/{NAME}"))
    if not paths:
        raise ValueError(f"{root.parent} has no recorded failure: {root} holds none")
    # By time: a run that went on from an older checkpoint fails at fewer images than before.
    path = max(paths, key=lambda path: path.stat().st_mtime_ns)
    try:
        found = json.loads(path.read_text())
        config, images_seen = config_from_tree(found["config"]), int(found["images_seen"])
        return Failure(config, images_seen, path.parent / "weights", dict(found["images"]), found["findings"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
