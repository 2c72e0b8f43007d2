"""Pictures in training: the same images and noise all along, at a known cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.tiny import BATCH, make_trainer, read_metrics, run_tiny, tiny_tree

from soda_fast.data import loader
from soda_fast.parallel import start_processes
from soda_fast.training.clock import ShareTimer
from soda_fast.training.signals import StopRequest


def test_the_same_picture_can_be_followed_through_training(tmp_path: Path) -> None:
    """Source and target stay, and a model that has not moved makes the same again."""
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path / "run", processes)
        samples, model = trainer.inspections.samples, trainer.step.ema.model
        before, again = samples.grid(model), samples.grid(model)
        trainer.train(StopRequest())
        trainer.checkpoints.close()
        after = samples.grid(model)
        fresh = make_trainer(tmp_path / "other", processes)
        others = fresh.inspections.samples.grid(fresh.step.ema.model)
        fresh.checkpoints.close()
    assert np.array_equal(before, again)
    assert np.array_equal(before, others)
    assert np.array_equal(before[:130], after[:130])
    assert not np.array_equal(before[130:], after[130:])


def test_a_few_images_need_no_copy_of_all_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies, real = [], loader.make_executor

    def look(*arguments: Any, many_calls: bool, **options: Any) -> Any:
        copies.append(many_calls)
        return real(*arguments, many_calls=many_calls, **options)

    monkeypatch.setattr(loader, "make_executor", look)
    with start_processes("cpu") as processes:
        trainer = make_trainer(tmp_path / "run", processes)
        trainer.inspections.samples._first_images()
        trainer.global_batch(0)
        batches = trainer._global_batches()
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        trainer.checkpoints.close()
    assert copies == [False, False, True]


def test_their_share_of_the_time_is_reported(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 4)
    tree["sampling"]["every_images"] = 2 * BATCH
    shares = {line["images_seen"]: line["samples_share"] for line in run_tiny(tree) if "samples_share" in line}
    assert shares.keys() == {2 * BATCH, 4 * BATCH}
    assert all(0 < share < 1 for share in shares.values())
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2


@pytest.mark.parametrize(("seconds", "warned"), [(8.0, 1), (2.0, 0)])
def test_dear_pictures_are_told_once(
    tmp_path: Path, seconds: float, warned: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which each picture takes `seconds`, and the whole training 12 more: 40 % of it, or 14 %."""
    ticks = iter([0.0, 12.0, 12.0 + seconds, *[12.0 + seconds] * 100])
    monkeypatch.setattr("soda_fast.training.inspections.ShareTimer", lambda: ShareTimer(lambda: next(ticks)))
    tree = tiny_tree(tmp_path / "run", 2)
    tree["sampling"]["every_images"] = BATCH
    run_tiny(tree)
    text = capsys.readouterr().out
    assert text.count("pictures have taken 40.0 % of the time so far (8 s); raise sampling.every_images") == warned
    assert text.count("pictures have taken") == warned
    shares = [line["samples_share"] for line in read_metrics(tmp_path / "run") if "samples_share" in line]
    assert shares[0] == pytest.approx(seconds / (12 + seconds))


def test_share_timer() -> None:
    now = 10.0
    timer = ShareTimer(lambda: now)
    for inside in (1.0, 3.0):
        now += 8.0
        with timer:
            now += inside
    assert (timer.seconds, timer.share) == (4.0, 0.2)
