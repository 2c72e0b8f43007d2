"""Where the camera stood for each image: poses.csv in the data set's folder, or in a store.

    file,position_x,position_y,position_z,direction_x,direction_y,direction_z,up_x,up_y,up_z,fov_degrees
    train/duck/000.png,0,-1,0.3,0,1,-0.3,0,0,1,20

file: relative to data.root. position: of the camera, in any unit in which positions lie within about -1..1. direction:
where it looks; up: what is up in the picture; neither need be of length 1, nor be at right angles. fov_degrees: the
angle that the image's height spans. Pixels are squares, and the camera looks through the middle of the image. Of a
camera-to-world matrix, position is the fourth column; direction and up are the third and the second, one of them with
the sign changed (OpenGL: direction; OpenCV: up).
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soda_fast.data.image_set import FileImages, ImageSet
from soda_fast.data.shard_images import ShardImages
from soda_fast.store.layout import POSES
from soda_fast.store.names import all_names

COLUMNS = (
    "file",
    *(f"{vector}_{axis}" for vector in ("position", "direction", "up") for axis in "xyz"),
    "fov_degrees",
)
Floats = NDArray[np.float64]


class Poses:
    """A split's poses. poses.csv is read when it is first asked for: a run that is not told of cameras needs none.

    Args:
        images: of files, or of a store.
        root: data.root.
    """

    def __init__(self, images: ImageSet, root: Path) -> None:
        self._images, self._root = images, root

    @cached_property
    def numbers(self) -> Floats | None:
        """(N, 10), as poses.csv has them, in the images' order; None: no poses.csv.

        Raises:
            ValueError: poses.csv cannot be understood, or lacks an image.
        """
        return _find_numbers(self._images, self._root)

    @cached_property
    def cameras(self) -> Floats | None:
        """(N, 3, 4), of the whole images (soda_fast/model/rays.py says what the columns are). Raises as `numbers`."""
        if self.numbers is None:
            return None
        return cameras_of(self.numbers, self._images.heights, self._images.widths)


def _find_numbers(images: ImageSet, root: Path) -> Floats | None:
    if isinstance(images, FileImages):
        path, names = root / POSES, [file.relative_to(root).as_posix() for file in images.paths]
    elif isinstance(images, ShardImages) and images.names is not None:
        path, names = images.names.with_name(POSES), all_names(images.names)
    else:
        return None
    if not path.is_file():
        return None
    poses = read_poses(path)
    require_poses(path, names, poses)
    return np.stack([poses[name] for name in names])


def read_poses(path: Path) -> dict[str, Floats]:
    """{file: its ten numbers}.

    Raises:
        ValueError: not UTF-8, an open quote, other columns, a line without ten finite numbers, a file named twice, a
            direction or up that is zero or parallel to the other, or an angle outside 0..180.
    """
    poses: dict[str, Floats] = {}
    lines = _lines(path)
    _, header = next(lines, (1, []))
    if tuple(header) != COLUMNS:
        raise ValueError(f"{path}: its first line is {','.join(header)!r}, but must be {','.join(COLUMNS)!r}")
    for place, line in lines:
        numbers = _numbers(line)
        problem = "is not a file and ten numbers" if numbers is None else _problem(numbers)
        if line and line[0] in poses:
            problem = "names a file that an earlier line has named"
        if numbers is None or problem:
            raise ValueError(f"{path}, line {place}: {problem}; correct it")
        poses[line[0]] = numbers
    return poses


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line's number, from 1, and its fields. A line is read by itself, so that an open quote ends with it."""
    for place, content in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield place, next(csv.reader([content.decode("utf-8")], strict=True), [])
        except UnicodeDecodeError as error:
            byte = content[error.start]
            raise ValueError(f"{path}, line {place}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from error
        except csv.Error as error:
            raise ValueError(f"{path}, line {place}: {error}; close the quote, or double each within one") from error


def require_poses(path: Path, names: Sequence[str], poses: Mapping[str, Floats]) -> None:
    """Raises ValueError if an image has no line."""
    missing = [name for name in names if name not in poses]
    if missing:
        more = f" ({len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise ValueError(f"{path}: has no line for {missing[0]}{more}; add its pose, or remove the image")


def write_poses(rows: Sequence[tuple[str, Floats]]) -> str:
    """The text of poses.csv. rows: file and its ten numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, *(f"{number:.9g}" for number in numbers)) for name, numbers in rows)
    return text.getvalue()


def _numbers(line: list[str]) -> Floats | None:
    try:
        numbers = np.array([float(text) for text in line[1:]])
    except ValueError:
        return None
    return numbers if len(line) == len(COLUMNS) and np.isfinite(numbers).all() else None


def _problem(numbers: Floats) -> str | None:
    direction, up, angle = numbers[3:6], numbers[6:9], numbers[9]
    lengths = np.linalg.norm(direction) * np.linalg.norm(up)
    if not np.linalg.norm(np.cross(direction, up)) > 1e-6 * lengths:
        return "has direction and up along one line, or one of them zero"
    return None if 0 < angle < 180 else f"has an angle of {angle:g} degrees, which is not between 0 and 180"


def cameras_of(poses: Floats, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Floats:
    """Cameras (N, 3, 4) of whole images from their ten numbers (N, 10) and sizes (N,) in pixels."""
    position, forward, up = poses[:, :3], _unit(poses[:, 3:6]), poses[:, 6:9]
    right = _unit(np.cross(forward, up))
    upright = np.cross(right, forward)
    height = 2 * np.tan(poses[:, 9:] * (math.pi / 360))  # of the image at distance 1
    # An unreadable image has no size, and is never shown.
    across = right * height * (widths / np.maximum(heights, 1))[:, None]
    down = -upright * height
    return np.stack((across, down, forward - across / 2 - down / 2, position), axis=2)


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
