"""Training with pairs and rays: on any number of processes, resumed, exported, predicted, used without a camera."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data.test_poses import posed_folder
from spawn import run_in_processes
from training.tiny import BATCH, losses, run_tiny, tiny_tree, weights_hash

import soda_fast
from benchmarks.synthetic import synthetic_parts
from soda_fast.build import view_rays
from soda_fast.config import config_from_tree, load_config
from soda_fast.data import load_dataset
from soda_fast.describe import describe
from soda_fast.export import export
from soda_fast.memory import predict_memory
from soda_fast.pretrained import load_encoder
from soda_fast.training.assembly import fingerprint_of, told_cameras


def tree(root: Path, run: Path, steps: int = 4, pose: str = "rays") -> dict[str, Any]:
    found = tiny_tree(run, steps)
    still = {"crop_scale": [0.5, 1.0], "randaugment_probability": 0.0}
    found["data"] |= {"dataset": "folder", "root": str(root), "pairs": True, "source": still, "target": still}
    found["model"] |= {"pose": pose, "ray_frequencies": 2}
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return posed_folder(tmp_path_factory.mktemp("posed"))


@pytest.fixture(scope="module")
def whole_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run_tiny(tree(root, path))
    return path


def test_resumed_equals_uninterrupted_bit_for_bit(root: Path, whole_run: Path, tmp_path: Path) -> None:
    for steps in (2, 4):
        run_tiny(tree(root, tmp_path / "parts", steps))
    assert weights_hash(tmp_path / "parts") == weights_hash(whole_run)


def train(tree: dict[str, Any]) -> None:
    run_tiny(tree)


def test_two_processes_learn_the_same(root: Path, whole_run: Path, tmp_path: Path) -> None:
    run_in_processes(train, 2, tree(root, tmp_path / "two"))
    expected = losses(whole_run)
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 4


def test_rays_change_what_is_learnt(root: Path, whole_run: Path, tmp_path: Path) -> None:
    run_tiny(tree(root, tmp_path / "none", pose="none"))
    assert losses(tmp_path / "none")[BATCH] != losses(whole_run)[BATCH]


def test_exported_and_loaded_it_encodes_with_and_without_a_camera(whole_run: Path, tmp_path: Path) -> None:
    model = soda_fast.load(whole_run)
    export(model, model.config, tmp_path / "out")
    images = torch.randn(2, 3, 8, 8)
    encoder, _ = load_encoder(tmp_path / "out")
    assert torch.equal(encoder(images), model.encode(images))
    rays = torch.randn(2, 24, 8, 8)
    assert not torch.equal(encoder(images, rays), encoder(images))
    assert model.sample(model.encode(images), steps=2).shape == (2, 3, 8, 8)


def test_the_python_api_takes_cameras(root: Path, whole_run: Path) -> None:
    model, images = soda_fast.load(whole_run), torch.randn(2, 3, 8, 8)
    cameras = load_dataset(model.config.data).train_cameras
    assert cameras is not None
    camera = torch.from_numpy(cameras[[0, 5]])
    z = model.encode(images, camera=camera)
    assert torch.equal(z, model.encode(images, view_rays(model.config, camera.float(), 8)))
    assert not torch.equal(z, model.encode(images))
    assert torch.equal(model.features(images, camera=camera)[0], z)
    with pytest.raises(ValueError, match="camera and rays are two forms of one thing"):
        model.features(images, torch.zeros(2, 24, 8, 8), camera)
    one, other = (model.sample(z, steps=2, camera=which) for which in (camera, camera.flip(0)))
    assert one.shape == (2, 3, 8, 8)
    assert not torch.equal(one, other)
    assert torch.equal(model.sample(z, steps=2, camera=torch.zeros(2, 3, 4)), model.sample(z, steps=2))
    with pytest.raises(ValueError, match=r"camera has shape \(1, 3, 4\), but must be \(2, 3, 4\)"):
        model.sample(z, camera=camera[:1])
    model.config = replace(model.config, model=replace(model.config.model, pose="none"))
    with pytest.raises(ValueError, match=r"camera is given, but model.pose is none"):
        model.encode(images, camera=camera)


def test_memory_and_arithmetic_count_the_rays(root: Path, tmp_path: Path) -> None:
    plans = [
        predict_memory(config_from_tree(tree(root, tmp_path, pose=pose)), device="cpu") for pose in ("none", "rays")
    ]
    features = 2 * BATCH * 24 * 8 * 8 * 4  # of both views, in float32
    assert plans[1].peak_bytes - plans[0].peak_bytes > features
    texts = [describe(config_from_tree(tree(root, tmp_path, pose=pose))) for pose in ("none", "rays")]
    assert texts[0] != texts[1]
    assert "12 images" in texts[1]


def test_batches_of_noise_have_cameras(root: Path, tmp_path: Path) -> None:
    for pose in ("none", "rays"):
        config = config_from_tree(tree(root, tmp_path, pose=pose))
        for batch in synthetic_parts(config, torch.device("cpu")):
            for camera, size in ((batch.source_camera, 8), (batch.target_camera, 8)):
                rays = view_rays(config, camera, size)
                assert (None if rays is None else rays.shape) == (None if pose == "none" else (BATCH, 24, 8, 8))


def test_poses_that_are_missing_are_told_at_once(whole_run: Path, root: Path, tmp_path: Path) -> None:
    bare = posed_folder(tmp_path / "bare")
    (bare / "poses.csv").unlink()
    with pytest.raises(ValueError, match=r"model.pose is rays, but data.root .*bare has no poses.csv"):
        run_tiny(tree(bare, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"data.source.randaugment_probability is 0.65, but under model.pose rays"):
        config_from_tree({"model": {"pose": "rays"}, "train": {"images": 1}})
    with pytest.raises(
        ValueError, match=r"model.pose is rays, but data.dataset webdataset has no poses; .* prepare folder"
    ):
        config_from_tree({"model": {"pose": "rays"}, "data": {"dataset": "webdataset"}, "train": {"images": 1}})
    assert load_config(whole_run / "config.yaml").model.pose == "rays"


def test_only_a_run_that_is_told_of_cameras_is_bound_to_poses(tmp_path: Path) -> None:
    folder = posed_folder(tmp_path)
    plain, told = (config_from_tree(tree(folder, tmp_path, pose=pose)) for pose in ("none", "rays"))
    before = [fingerprint_of(config, load_dataset(config.data)) for config in (plain, told)]
    poses = folder / "poses.csv"
    poses.write_text(poses.read_text().replace(",11\n", ",12\n"))
    after = [fingerprint_of(config, load_dataset(config.data)) for config in (plain, told)]
    assert before[0] == after[0]
    assert before[1] != after[1]
    poses.write_text("nothing of use")
    dataset = load_dataset(plain.data)
    assert told_cameras(plain, dataset) is None
    with pytest.raises(ValueError, match=r"poses.csv: its first line is"):
        told_cameras(told, dataset)
