"""Every task on a small run: the same picture from one and two processes, and made of what it says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spawn import run_in_processes
from training.tiny import run_tiny, tiny_tree, with_two_resolutions

import soda_fast
from soda_fast.cli import main
from soda_fast.data import load_dataset
from soda_fast.parallel import start_processes
from soda_fast.sample import _title
from soda_fast.sampling import with_sampling
from soda_fast.synthesis.names import TASK_NAMES
from soda_fast.synthesis.studio import Studio
from soda_fast.synthesis.tasks import TASKS

COLUMNS = 3
ANY_MODELS = [task for task in TASK_NAMES if task != "novel-view"]  # that one: test_novel_view.py


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layerwise, so that all tasks can be done; batches of four, so that two processes share them."""
    path = tmp_path_factory.mktemp("sampling") / "run"
    tree = with_two_resolutions(tiny_tree(path, steps=4))
    tree["model"]["modulation"] = "layerwise"
    tree["sampling"] = {"images": COLUMNS, "steps": 3, "solver": "dpm-solver++", "batch_images": 4}
    run_tiny(tree)
    return path


@pytest.fixture
def studio(run: Path) -> Iterator[Studio]:
    model = soda_fast.load(run)
    with start_processes("cpu") as processes:
        yield Studio(model, load_dataset(model.config.data), model.config, processes)


def sample_all(run: Path) -> None:
    torch.set_num_threads(1)
    for task in ANY_MODELS:
        assert main(["sample", str(run), "--task", task, "--seed", "1"]) == 0


def take_pictures(run: Path) -> list[bytes]:
    """Those of all tasks, which are then gone."""
    paths = [run / "samples" / f"{task}-000000000048.png" for task in ANY_MODELS]
    assert all(np.asarray(Image.open(path)).std() > 10 for path in paths)
    pictures = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    return pictures


def test_one_and_two_processes_make_the_same_pictures(run: Path) -> None:
    sample_all(run)
    alone = take_pictures(run)
    assert len(set(alone)) == len(ANY_MODELS)
    run_in_processes(sample_all, 2, run)
    assert take_pictures(run) == alone


@pytest.mark.parametrize("seed", ["-1", str(2**63)])
def test_seeds_out_of_range_are_told(run: Path, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--task", "mix", "--seed", seed]) == 2
    assert f"run.seed: found {seed}" in capsys.readouterr().err


def test_the_title_says_eta_where_there_is_one(studio: Studio) -> None:
    for eta, said in ((0.5, ", eta 0.5, guidance"), (0.0, "steps, guidance")):
        assert said in _title("mix", with_sampling(studio.config, {"eta": eta, "solver": "ddim"}), 5)


def test_the_title_says_which_average(studio: Studio) -> None:
    assert "5 images seen, EMA length 0.07, d" in _title("mix", studio.config, 5, 0.07)
    assert "5 images seen, d" in _title("mix", studio.config, 5)


def test_names_and_tasks_agree() -> None:
    assert list(TASKS) == list(TASK_NAMES)


def test_reconstruct_shows_the_other_view(studio: Studio) -> None:
    source, target, made, again = (row.images for row in TASKS["reconstruct"](studio).rows)
    whole = studio.targets(studio.choose(COLUMNS))
    assert not torch.equal(target, whole)
    assert not torch.equal(target, source)
    assert not torch.equal(made, again)
    noiseless = replace(studio.config.data.source, crop_flip_probability=0.0, randaugment_probability=0.0)
    torch.testing.assert_close(studio.visible(studio.sources(studio.choose(COLUMNS), noiseless)), whole)


def test_interpolate_goes_from_one_image_to_the_other(studio: Studio) -> None:
    picture, indices = TASKS["interpolate"](studio), studio.choose(8)
    z, images = studio.encode(studio.sources(indices)), studio.targets(indices)
    ends = studio.make(z, torch.arange(4).repeat_interleave(2), "")
    assert picture.columns == ["image", "0", "0.5", "1", "image"]
    for number, row in enumerate(picture.rows):
        first, second = 2 * number, 2 * number + 1
        assert torch.equal(row.images[0], images[first])
        assert torch.equal(row.images[-1], images[second])
        torch.testing.assert_close(row.images[1], ends[first], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(row.images[-2], ends[second], atol=1e-4, rtol=1e-4)


def test_mix_takes_each_section_from_its_image(studio: Studio) -> None:
    """Eight elements in three sections: three fine ones."""
    picture, indices = TASKS["mix"](studio), studio.choose(4 + COLUMNS)
    z = studio.encode(studio.sources(indices))
    row, column = 2, 1
    expected = studio.make(torch.cat((z[4 + column, :3], z[row, 3:]))[None], torch.zeros(1, dtype=torch.int64), "")
    torch.testing.assert_close(picture.rows[1 + row].images[1 + column], expected[0], atol=1e-5, rtol=1e-5)
    assert picture.rows[0].caption == "fine: section 1\nof z"
    assert picture.rows[1].caption == "coarse: sections 2-3\nof z"


def test_unconditional_knows_nothing_of_the_encoder(studio: Studio) -> None:
    before, with_z = TASKS["unconditional"](studio), TASKS["reconstruct"](studio)
    for parameter in studio.model.encoder.parameters():
        parameter.add_(1.0)
    after, with_other_z = TASKS["unconditional"](studio), TASKS["reconstruct"](studio)
    for one, other in zip(before.rows, after.rows, strict=True):
        assert torch.equal(one.images, other.images)
    assert not torch.equal(with_z.rows[2].images, with_other_z.rows[2].images)


def test_unconditional_needs_a_decoder_that_learnt_it(studio: Studio) -> None:
    config = replace(studio.config, diffusion=replace(studio.config.diffusion, drop_probability=0.0))
    with pytest.raises(ValueError, match=r"unconditional: diffusion\.drop_probability is 0.*=0\.1"):
        TASKS["unconditional"](replace(studio, config=config))


def test_traverse_moves_away_from_the_image_itself(studio: Studio) -> None:
    picture, index = TASKS["traverse"](studio), studio.choose(1)
    still = studio.make(studio.encode(studio.sources(index)), torch.zeros(1, dtype=torch.int64), "")
    assert picture.columns == ["image", "-3 sd", "+0 sd", "+3 sd"]
    for row in picture.rows:
        torch.testing.assert_close(row.images[2:3], still, atol=1e-5, rtol=1e-5)
        assert not torch.equal(row.images[1], row.images[3])


def test_seeds_choose_images_and_noise(studio: Studio) -> None:
    other = replace(studio, config=replace(studio.config, run=replace(studio.config.run, seed=9)))
    assert studio.choose(10).tolist() != other.choose(10).tolist()
    assert len(set(studio.choose(360).tolist())) == 360
    z = torch.zeros(2, 8)
    assert torch.equal(studio.make(z, torch.tensor([5, 5]), "")[0], studio.make(z, torch.tensor([5, 5]), "")[1])
    assert not torch.equal(studio.make(z, torch.arange(2), ""), other.make(z, torch.arange(2), ""))
