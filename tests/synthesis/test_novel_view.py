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
from soda_fast.parallel import start_processes
from soda_fast.synthesis.novel_view import choose_views, novel_view
from soda_fast.synthesis.studio import Studio

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
