"""COIL-100 (Nene, Nayar and Murase, 1996): 100 objects on a turntable, one view every 5 degrees, objN__A.png.

The test split is every fourth view, at 10, 30, 50, ... degrees: 18 of each object's 72. Or it is whole objects,
with all their views, of which training sees none.

The angle is all that is known of the camera. It is taken to go around the object's axis (z, upwards), level with it, at
distance 1 and with an angle of view of 30 degrees: whatever they are, rays of two views differ by the turn alone. The
set does not say which way the table turned; here angles grow counter-clockwise, seen from above.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from soda_fast.data.poses import write_poses
from soda_fast.store.build import Contents
from soda_fast.store.entries import Entry

STEP_DEGREES = 5
HELD_OUT = range(10, 360, 20)
"""Angles of the test split, in degrees."""
_FOV_DEGREES = 30.0
_NAME = re.compile(r"obj(\d{1,4})__(\d{1,3})\.png")


def coil_contents(source: str, entries: Sequence[Entry], held_out_objects: int = 0) -> Contents:
    """Objects as classes, in the order of their numbers, views in the order of their angles; and poses.

    Args:
        source: what to call the archive or folder.
        entries: any files; those that are not named as COIL's images are left out.
        held_out_objects: how many whole objects are the test split, evenly over all: of 30 in order, 5 are the 6th, the
            12th, .. the 30th. 0: views of every object are.

    Raises:
        ValueError: no images, an angle that is not a multiple of 5 below 360, or a view that comes twice; or as many
            objects are to be held out as there are.
    """
    views: dict[tuple[int, int], Entry] = {}
    for entry in entries:
        named = _NAME.fullmatch(PurePosixPath(entry.name).name)
        if named is None:
            continue
        number, angle = int(named[1]), int(named[2])
        if angle % STEP_DEGREES or angle >= 360:
            raise ValueError(f"{source}: {entry.name} has an angle that is not 0, 5, .. 355; get the data set again")
        if (number, angle) in views:
            raise ValueError(f"{source}: {entry.name} and {views[number, angle].name} are the same view; remove one")
        views[number, angle] = entry
    if not views:
        raise ValueError(f"{source}: holds no objN__A.png; give coil-100.zip, or the folder that it was unpacked to")
    numbers = sorted({number for number, _ in views})
    objects = _spread(numbers, held_out_objects, source)
    labelled = [
        (
            number in objects if objects else angle in HELD_OUT,
            views[number, angle]._replace(label=numbers.index(number)),
        )
        for number, angle in sorted(views)
    ]
    splits = {
        name: [entry for held_out, entry in labelled if held_out == (name == "test")] for name in ("train", "test")
    }
    poses = write_poses([(entry.name, turntable_pose(angle)) for (_, angle), entry in sorted(views.items())])
    return Contents("coil100", tuple(f"obj{number}" for number in numbers), splits, poses)


def _spread(numbers: Sequence[int], count: int, source: str) -> set[int]:
    """`count` of the objects, evenly over them, the last one among them."""
    if count >= len(numbers):
        raise ValueError(
            f"--held-out-objects {count}: {source} has {len(numbers)} objects, and some must be left to train on"
        )
    return {numbers[(place + 1) * len(numbers) // count - 1] for place in range(count)}


def require_held_out(store: Path, objects: int) -> None:
    """Raises ValueError where a store of this data set was made with another number of whole objects held out."""
    train, test = (np.unique(np.load(store / f"{split}.index.npy")["label"]) for split in ("train", "test"))
    found = len(np.setdiff1d(test, train))
    if found != objects:
        raise ValueError(
            f"--held-out-objects {objects}: {store} is there already and holds out {found}; remove it, or choose "
            "another --root"
        )


def turntable_pose(degrees: float) -> np.ndarray:
    """The ten numbers of poses.csv for a camera at this angle around the z axis, which looks at its foot."""
    around = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0])
    return np.array([*around, *(0.0 - around), 0.0, 0.0, 1.0, _FOV_DEGREES])
