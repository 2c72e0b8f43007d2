"""Novel views on a small run: which views, what the decoder is told, and the same picture from two processes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_poses import angles, posed_folder
from spawn import run_in_processes
from training.test_pose import tree
from training.tiny import run_tiny, tiny_tree

import soda_fast
from soda_fast.cli import main
from soda_fast.data import load_dataset
from soda_fast.data.view_cameras import ViewCameras
from soda_fast.data.views import plan
from soda_fast.measures import MadeImages
from soda_fast.parallel import start_processes
from soda_fast.synthesis.latents import mix_sections
from soda_fast.synthesis.novel_view import choose_views, novel_view
from soda_fast.synthesis.studio import Studio
from soda_fast.synthesis.tasks import interpolate, mix, reconstruct, traverse

COLUMNS = 3
PICTURE = "samples/novel-view-000000000024.png"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("novel")
    settings = tree(posed_folder(folder / "objects"), folder / "run", steps=2)
    settings["sampling"] = {"images": COLUMNS, "steps": 2, "solver": "dpm-solver++", "batch_images": 2}
    run_tiny(settings)
    return folder / "run"


@pytest.fixture
def studio(run: Path) -> Iterator[Studio]:
    model = soda_fast.load(run)
    with start_processes("cpu") as processes:
        yield Studio(model, load_dataset(model.config.data), model.config, processes)


def test_targets_are_other_views_of_the_sources_object(studio: Studio) -> None:
    sources, targets = choose_views(studio, 2, COLUMNS)
    labels = studio.images.labels
    assert sorted(labels[sources]) == [0, 1]
    for source, others in zip(sources, targets, strict=True):
        assert (labels[others] == labels[source]).all()
        assert source not in others
        assert len(set(others)) == COLUMNS
        assert (np.diff(others) > 0).all()
    np.testing.assert_array_equal(choose_views(studio, 1, COLUMNS)[0], sources[:1])


def test_cameras_are_those_of_the_images(studio: Studio) -> None:
    indices = np.array([7, 2, 11])
    numbers = [int(Path(studio.images.describe(index)).stem) for index in indices]
    np.testing.assert_allclose(angles(studio.cameras(indices)), 10 + np.array(numbers), atol=1e-3)


def test_what_is_made_follows_the_source_and_the_camera(studio: Studio) -> None:
    picture = novel_view(studio)
    assert picture.rows[0].caption.endswith("\ntrained on"), "there is no test split"
    assert [row.images.shape for row in picture.rows] == [(1 + COLUMNS, 3, 8, 8)] * 4
    sources, targets = choose_views(studio, 4, COLUMNS)
    torch.testing.assert_close(picture.rows[0].images, studio.targets(np.array([sources[0], *targets[0]])))
    z = studio.encode(studio.sources(sources[:1]), studio.cameras(sources[:1]))
    one = torch.zeros(1, dtype=torch.int64)
    by_hand = studio.make(z, one, "", studio.cameras(targets[0, 1:2]))
    torch.testing.assert_close(picture.rows[1].images[2:3], by_hand, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(by_hand, studio.make(z, one, "", studio.cameras(targets[0, :1])))
    assert not torch.allclose(by_hand, studio.make(z, one, ""))
    assert not torch.allclose(z, studio.encode(studio.sources(sources[:1])))


def test_what_training_has_seen_of_an_object_is_said(studio: Studio) -> None:
    """Here it has seen label 0, and all images are the test split."""
    whole = studio.dataset
    seen = whole.train.subset(np.flatnonzero(whole.train.labels == 0))
    split = replace(whole, train=seen, test=whole.train, train_poses=None, test_poses=whole.train_poses)
    shown = replace(studio, dataset=split)
    sources, _ = choose_views(shown, 2, COLUMNS)
    origins = [row.caption.partition(",\n")[2] for row in novel_view(shown).rows[::2]]
    assert origins == [["views held out", "never trained on"][label] for label in whole.train.labels[sources]]


def test_reconstructions_are_of_the_partner_and_told_the_cameras(studio: Studio) -> None:
    picture, data = reconstruct(studio), studio.config.data
    indices = studio.choose(COLUMNS)
    partners, labels = studio.partners(indices), studio.images.labels
    assert (labels[partners] == labels[indices]).all()
    assert (partners != indices).all()
    torch.testing.assert_close(picture.rows[1].images, studio.targets(partners, data.target))
    # The cameras of views that training would draw at these positions.
    known = studio.dataset.train_cameras
    cameras = [
        torch.from_numpy(
            ViewCameras(known, studio.images, studio.config.run.seed, 0.0)(stream, indices, shown, planned)
        )
        for stream, shown, planned in (
            (name, rows, plan(view, studio.config.run.seed, name, rows, np.full(COLUMNS, 8), np.full(COLUMNS, 8)))
            for name, rows, view in (("source", indices, data.source), ("target", partners, data.target))
        )
    ]
    z = studio.encode(studio.sources(indices, data.source), cameras[0])
    by_hand = studio.make(z, torch.arange(COLUMNS), "", cameras[1])
    torch.testing.assert_close(picture.rows[2].images, by_hand, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(picture.rows[2].images, studio.make(z, torch.arange(COLUMNS), ""), atol=1e-4)
    for task in (interpolate, traverse):
        assert task(studio).rows


def test_mixtures_are_seen_from_where_the_coarse_image_was(tmp_path: Path) -> None:
    settings = tree(posed_folder(tmp_path / "objects"), tmp_path / "run", steps=2)
    settings["sampling"] = {"images": COLUMNS, "steps": 2}
    settings["model"]["modulation"] = "layerwise"
    run_tiny(settings)
    model = soda_fast.load(tmp_path / "run")
    with start_processes("cpu") as processes:
        studio = Studio(model, load_dataset(model.config.data), model.config, processes)
        picture = mix(studio)
        rows = len(picture.rows) - 1
        indices = studio.choose(rows + COLUMNS)
        cameras = studio.cameras(indices)
        z = studio.encode(studio.sources(indices), cameras)
        mixed = mix_sections(z[1:2], z[rows : rows + 1], model.decoder.sections.count)
        one = torch.zeros(1, dtype=torch.int64)
        # The second row's first mixture.
        made = picture.rows[2].images[1:2]
        torch.testing.assert_close(made, studio.make(mixed, one, "", cameras[1:2]), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(made, studio.make(mixed, one, "", cameras[rows : rows + 1]), atol=1e-4)


def test_measures_tell_the_cameras_and_say_so(studio: Studio) -> None:
    made = MadeImages(studio, "here")
    indices = studio.choose(len(made))
    z = studio.encode(studio.sources(indices), studio.cameras(indices))
    expected = studio.make(z, torch.arange(len(made)), "", studio.cameras(indices))
    torch.testing.assert_close(made.reconstructed, expected.clamp(0, 1), atol=3e-3, rtol=0)
    assert not torch.allclose(made.reconstructed, studio.make(z, torch.arange(len(made)), ""), atol=3e-3)
    assert made.setting("known")["camera"] == "known"
    config = replace(studio.config, model=replace(studio.config.model, pose="none"))
    assert "camera" not in MadeImages(replace(studio, config=config), "here").setting("known")


def test_cameras_are_those_of_stand_ins(run: Path, tmp_path: Path) -> None:
    root = posed_folder(tmp_path)
    (root / "train/duck/00.png").write_bytes(b"no image")  # found when the data set is opened
    cut = root / "train/cup/03.png"
    cut.write_bytes(cut.read_bytes()[:60])  # found when it is decoded
    model = soda_fast.load(run)
    data = replace(model.config.data, root=str(root), on_unreadable="replace", unreadable_limit=1.0)
    with start_processes("cpu") as processes:
        studio = Studio(model, load_dataset(data), replace(model.config, data=data), processes)
        numbers = [int(Path(studio.images.describe(index)).stem) for index in range(12)]
        indices = np.array([numbers.index(0), numbers.index(3)])
        np.testing.assert_allclose(angles(studio.cameras(indices)), [12, 15], atol=1e-3)


def sample(run: Path) -> None:
    torch.set_num_threads(1)
    assert main(["sample", str(run), "--task", "novel-view", "--seed", "1"]) == 0


def test_one_and_two_processes_make_the_same_picture(run: Path) -> None:
    sample(run)
    alone = (run / PICTURE).read_bytes()
    (run / PICTURE).unlink()
    run_in_processes(sample, 2, run)
    assert (run / PICTURE).read_bytes() == alone


def test_what_it_needs_is_told(studio: Studio) -> None:
    poseless = replace(studio, dataset=replace(studio.dataset, train_poses=None))
    with pytest.raises(ValueError, match=r"model.pose is rays, but .* has no poses.csv"):
        novel_view(poseless)
    single = studio.dataset.train.subset(np.array([0]))
    with pytest.raises(ValueError, match="novel-view: no object has two images"):
        novel_view(replace(studio, dataset=replace(studio.dataset, train=single)))


def test_a_run_without_cameras_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(tiny_tree(tmp_path / "run", steps=1))
    assert main(["sample", str(tmp_path / "run"), "--task", "novel-view"]) == 2
    assert "novel-view: model.pose is none" in capsys.readouterr().err
