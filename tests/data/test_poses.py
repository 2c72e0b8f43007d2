"""Cameras: from lines of poses.csv to the rays of a view's pixels, each against a camera written out by hand."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from soda_fast.config.schema import DataConfig, ViewConfig
from soda_fast.data import Batch, TrainLoader, load_dataset
from soda_fast.data.fingerprint import listing_fingerprint
from soda_fast.data.poses import COLUMNS, cameras_of, read_poses, write_poses
from soda_fast.data.view_cameras import view_cameras
from soda_fast.data.views import clean_plan, plan
from soda_fast.model.rays import rays
from tests.data.pictures import encode

STILL = ViewConfig(crop_flip_probability=0.0, randaugment_probability=0.0)
DATA = DataConfig(dataset="folder", source_size=4, target_size=8, source=STILL, target=STILL, backend="torchvision")
# From (0, -1, 0) along y, z being up, 90 degrees high.
POSE = np.array([0.0, -1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.3, 5.0, 90.0])


def by_hand(x: float, y: float, height: int, width: int) -> np.ndarray:
    """POSE's unit direction through the point (x, y) of an image, in pixels from its upper left corner."""
    direction = np.array([(x - width / 2) / (height / 2), 1.0, -(y - height / 2) / (height / 2)])
    return direction / np.linalg.norm(direction)


def directions(camera: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3)."""
    origin, direction = rays(torch.from_numpy(camera[None]).float(), size)
    np.testing.assert_allclose(origin[0].permute(1, 2, 0), np.broadcast_to([0, -1, 0], (size, size, 3)), atol=1e-6)
    return direction[0].permute(1, 2, 0).numpy()


def test_rays_of_a_whole_image() -> None:
    (camera,) = cameras_of(POSE[None], np.array([6]), np.array([6]))
    found = directions(camera, 6)
    for row in range(6):
        for column in range(6):
            np.testing.assert_allclose(found[row, column], by_hand(column + 0.5, row + 0.5, 6, 6), atol=1e-6)


@pytest.mark.parametrize("view", [STILL, ViewConfig(flip_probability=0.5, randaugment_probability=0.0)])
def test_rays_of_a_view_are_those_of_its_box_and_mirrored_with_it(view: ViewConfig) -> None:
    count, size = 20, 4
    heights, widths = np.full(count, 30), np.full(count, 44)
    planned = plan(view, 0, "source", np.arange(count), heights, widths)
    whole = cameras_of(np.tile(POSE, (count, 1)), heights, widths)
    for row, camera in enumerate(view_cameras(whole, planned, heights, widths)):
        found = directions(camera, size)
        left, top, width, height = (int(v[row]) for v in (planned.left, planned.top, planned.width, planned.height))
        for y, x in ((0, 0), (1, 3), (3, 2)):
            across = (size - 1 - x if planned.flip[row] else x) + 0.5
            expected = by_hand(left + across * width / size, top + (y + 0.5) * height / size, 30, 44)
            np.testing.assert_allclose(found[y, x], expected, atol=1e-5)
    assert planned.flip.any() == bool(view.crop_flip_probability)


def posed_folder(root: Path, count: int = 12) -> Path:
    """Two objects, whose images have the angles 0, 10, ... degrees of POSE's camera as their fields of view."""
    rows = []
    for number in range(count):
        name = f"train/{'cup' if number % 2 else 'duck'}/{number:02}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (root / name).write_bytes(encode(Image.fromarray(pixels), "PNG"))
        rows.append((name, np.array([*POSE[:9], 10.0 + number])))
    (root / "poses.csv").write_text(write_poses(rows))
    return root


def angles(cameras: torch.Tensor) -> np.ndarray:
    """The field of view of POSE's camera, in degrees: how long the step down is."""
    return 2 * np.degrees(np.arctan(cameras[:, :, 1].norm(dim=1).numpy() / 2))


def batches(root: Path, count: int, **changes: object) -> list[Batch]:
    data = replace(DATA, root=str(root), **changes)
    dataset = load_dataset(data)
    loader = TrainLoader(
        dataset.train, data, dataset.mean, dataset.std, seed=1, global_batch=12, rank=0, world=1, parts=1,
        start_position=0, device=torch.device("cpu"), cameras=dataset.train_cameras,
    )  # fmt: skip
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


@pytest.mark.parametrize("pairs", [False, True])
def test_a_batch_comes_with_the_cameras_of_its_images(tmp_path: Path, pairs: bool) -> None:
    root = posed_folder(tmp_path)
    (batch,) = batches(root, 1, pairs=pairs, camera_drop_probability=0.0)
    dataset = load_dataset(replace(DATA, root=str(root)))
    numbers = np.array([int(Path(dataset.train.describe(i)).stem) for i in range(12)])
    sources = numbers[batch.index.numpy()]
    np.testing.assert_allclose(angles(batch.source_camera), 10 + sources, atol=1e-3)
    shown = {tuple(dataset.train.decode(i)[..., 0].ravel().tolist()): numbers[i] for i in range(12)}
    targets = [shown[tuple((view[0] * 255).round().int().ravel().tolist())] for view in batch.target]
    np.testing.assert_allclose(angles(batch.target_camera), 10 + np.array(targets), atol=1e-3)
    assert ((sources == targets).all(), (sources == targets).any()) == (not pairs, not pairs)


def test_every_target_has_the_camera_of_its_own_view(tmp_path: Path) -> None:
    root, flipped = posed_folder(tmp_path), ViewConfig(randaugment_probability=0.0)
    (one,), (three,) = (batches(root, 1, target=flipped, targets_per_source=targets) for targets in (1, 3))
    assert three.source_camera.shape == (12, 3, 4)
    assert torch.equal(three.source_camera, one.source_camera)
    cameras = three.target_camera.unflatten(0, (12, 3))
    assert torch.equal(cameras[:, 0], one.target_camera)
    assert (cameras[:, 1] != cameras[:, 2]).flatten(1).any(dim=1).float().mean() > 0.5


def test_cameras_are_withheld_by_chance_and_apart(tmp_path: Path) -> None:
    many = batches(posed_folder(tmp_path), 40, camera_drop_probability=0.25)
    source, target = (torch.cat([getattr(b, f"{n}_camera") for b in many]).flatten(1) for n in ("source", "target"))
    withheld = torch.stack([(source == 0).all(dim=1), (target == 0).all(dim=1)]).float()
    assert (withheld.mean(dim=1) - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 480)
    assert abs(withheld.prod(dim=0).mean() - 1 / 16) < 4 * math.sqrt(1 / 16 / 480)


def test_without_poses_there_are_no_cameras(tmp_path: Path) -> None:
    (posed_folder(tmp_path) / "poses.csv").unlink()
    (batch,) = batches(tmp_path, 1)
    assert batch.source_camera is batch.target_camera is None


def test_poses_belong_to_the_fingerprint(tmp_path: Path) -> None:
    dataset = load_dataset(replace(DATA, root=str(posed_folder(tmp_path))))
    numbers = dataset.train_poses.numbers
    np.testing.assert_array_equal(numbers[:, :9], np.tile(POSE[:9], (12, 1)))
    prints = {listing_fingerprint(dataset.train, poses) for poses in (None, numbers, numbers + 0.1)}
    assert len(prints) == 3


@pytest.mark.parametrize("name", ["a b.png", "a, b.png", '"a" b.png', "a'.png"])
def test_poses_are_written_as_they_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "poses.csv").write_text(write_poses([(name, POSE)]))
    (found,) = read_poses(tmp_path / "poses.csv").items()
    assert found[0] == name
    assert np.array_equal(found[1], POSE)


LINE = "train/cup/01.png,0,-1,0,0,1,0,0,0,1,"
MISTAKES = {
    "no header": ("train/cup/01.png,1", r"poses.csv: its first line is .* must be 'file,position_x"),
    "words": (f"{LINE}wide", r"line 2: is not a file and ten numbers"),
    "too few": ("train/cup/01.png,0,1", r"line 2: is not a file and ten numbers"),
    "infinite": (f"{LINE}inf", r"line 2: is not a file and ten numbers"),
    "flat angle": (f"{LINE}180", r"line 2: has an angle of 180 degrees"),
    "parallel": ("a.png,0,0,0,0,0,1,0,0,2,20", r"line 2: has direction and up along one line"),
    "twice": (f"{LINE}20\n{LINE}20", r"line 3: names a file that an earlier line has named"),
    "open quote": ('"train/cup/01.png,0', r"poses.csv, line 2: unexpected end of data; close the quote"),
    "missing": (f"{LINE}20", r"poses.csv: has no line for train/cup/03.png \(10 more\); add its pose"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    text, message = MISTAKES[name]
    header = "" if name == "no header" else ",".join(COLUMNS) + "\n"
    (posed_folder(tmp_path) / "poses.csv").write_text(header + text + "\n")
    dataset = load_dataset(replace(DATA, root=str(tmp_path)))  # a run that is not told of cameras needs no poses
    with pytest.raises(ValueError, match=message):
        _ = dataset.train_cameras


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "poses.csv").write_bytes(f"{','.join(COLUMNS)}\n".encode() + "é.png,0".encode("latin-1"))
    with pytest.raises(ValueError, match=r"poses.csv, line 2: byte 0xe9 is not UTF-8"):
        read_poses(tmp_path / "poses.csv")


def test_the_central_square_of_a_wide_image_looks_straight_ahead() -> None:
    heights, widths = np.array([8]), np.array([20])
    whole = cameras_of(POSE[None], heights, widths)
    (camera,) = view_cameras(whole, clean_plan(heights, widths), heights, widths)
    np.testing.assert_allclose(directions(camera, 3)[1, 1], [0, 1, 0], atol=1e-6)
