"""Pictures and probes come after the checkpoint of their step, each exactly once, wherever a run is killed."""

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import forked
import pytest
from spawn import run_in_processes
from training.tiny import BATCH, read_metrics, tiny_tree, trainer_of

from soda_fast.errors import Stopped
from soda_fast.model import SODA
from soda_fast.parallel import start_processes
from soda_fast.training import trainer as trainer_module
from soda_fast.training.checkpoint_files import checkpoints
from soda_fast.training.probes import Probes
from soda_fast.training.signals import StopRequest
from soda_fast.training.trainer import Trainer


class Killed(BaseException):
    """Nothing in a process handles it."""


def inspected(run: Path, steps: int, **keys: Any) -> dict[str, Any]:
    tree = tiny_tree(run, steps, save_every_images=2 * BATCH)
    tree["sampling"]["every_images"] = 2 * BATCH
    return tree | {"evaluation": {"during": {"knn": 2 * BATCH, **keys}}}


def train(tree: dict[str, Any], kill_in: tuple[str, int] | None = None) -> list[tuple[str, int]]:
    """Train; die in the inspection of this name after this many images. What was begun: (name, images_seen)."""
    begun: list[tuple[str, int]] = []
    with start_processes("cpu") as processes:
        trainer = trainer_of(tree, processes)
        record(trainer, begun, kill_in)
        try:
            trainer.train(StopRequest())
        except Killed:
            pass
        finally:
            trainer.checkpoints.close()
    return begun


def record(trainer: Trainer, begun: list[tuple[str, int]], kill_in: tuple[str, int] | None) -> None:
    real_save, real_run = trainer.checkpoints.save, trainer.inspections.run

    def save(*arguments: Any) -> None:
        begun.append(("save", trainer.images_seen))
        real_save(*arguments)

    def run(name: str, images_seen: int, model: Any, made_up: bool = False) -> None:
        begun.append((name, images_seen))
        if (name, images_seen) == kill_in:
            raise Killed
        real_run(name, images_seen, model, made_up)

    trainer.checkpoints.save, trainer.inspections.run = save, run  # type: ignore[method-assign]


def test_the_checkpoint_comes_first(tmp_path: Path) -> None:
    begun = train(inspected(tmp_path, 4))
    assert begun == [(name, images * BATCH) for images in (2, 4) for name in ("save", "pictures", "knn")]


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("name", ["pictures", "knn"])
def test_what_a_kill_left_out_is_made_up_for(tmp_path: Path, step: int, name: str) -> None:
    """Step 4 is the last: a finished run, too, has its last pictures and probes to the end."""
    tree = inspected(tmp_path, 4)
    train(tree, kill_in=(name, step * BATCH))
    assert checkpoints(tmp_path / "checkpoints")[-1].name.endswith(f"{step * BATCH:012d}")
    begun = train(tree)
    left = {"pictures": ["pictures", "knn"], "knn": ["knn"]}[name]
    after = [(name, 4 * BATCH) for name in ("save", "pictures", "knn")] if step == 2 else []
    assert begun == [*((name, step * BATCH) for name in left), *after]
    assert train(tree) == []
    assert probed(tmp_path, "knn-dino/z") == {2 * BATCH: 1, 4 * BATCH: 1}
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
    # A picture that was made up for, before any training of this attempt, has no share of its time.
    shares = probed(tmp_path, "samples_share")
    assert shares[step * BATCH] == (0 if name == "pictures" else 1)
    assert shares[(6 - step) * BATCH] == 1


def probed(run: Path, key: str) -> Counter[float]:
    """How often each images_seen has a value of `key`."""
    return Counter(line["images_seen"] for line in read_metrics(run) if key in line)


def stopped_in_the_picture(folder: str) -> tuple[list[tuple[str, int]], str]:
    """Two inspections of step 2; process 1 alone is told to stop while the first is running."""
    begun: list[tuple[str, int]] = []
    tree = inspected(Path(folder), 2)
    tree["train"]["save_every_images"] = 0
    with start_processes("cpu") as processes:
        trainer, stop = trainer_of(tree, processes), StopRequest()
        record(trainer, begun, None)
        real_run = trainer.inspections.run

        def run(*arguments: Any) -> None:
            real_run(*arguments)
            stop.received = signal.SIGTERM if processes.rank == 1 else 0

        trainer.inspections.run = run  # type: ignore[method-assign]
        told = ""
        try:
            trainer.train(stop)
        except Stopped as error:
            told = str(error)
        finally:
            trainer.checkpoints.close()
    return begun, told


def test_a_stop_does_not_wait_for_the_next_inspection(tmp_path: Path) -> None:
    """Nor at the end of the run; what was left out is made up for."""
    for begun, told in run_in_processes(stopped_in_the_picture, 2, str(tmp_path)):
        assert begun == [("save", 2 * BATCH), ("pictures", 2 * BATCH)]
        assert f"stopped by SIGTERM at {2 * BATCH} of {2 * BATCH} images" in told
    assert len(checkpoints(tmp_path / "checkpoints")) == 1
    assert train(inspected(tmp_path, 2)) == [("knn", 2 * BATCH)]


def test_a_step_is_saved_before_its_inspections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the last checkpoint is younger than a minute: here, none."""
    tree = inspected(tmp_path / "old", 4)
    tree["train"]["save_every_images"] = "auto"
    assert [what for what in train(tree) if what[0] == "save"] == [("save", 4 * BATCH)]
    monkeypatch.setattr(trainer_module, "INSPECTION_SAVE_S", 0.0)
    tree["run"]["dir"] = str(tmp_path / "now")
    begun = train(tree)
    assert begun[0] == ("save", 2 * BATCH)
    assert begun[1] == ("pictures", 2 * BATCH)


def never_end_a_probe() -> None:
    """Of linear-mae: whoever kills it may be late."""
    real = Probes.run

    def run(probes: Probes, probe: str, model: SODA) -> dict[str, float]:
        found = real(probes, probe, model)
        if probe == "linear-mae":
            time.sleep(forked.PATIENCE_S)
        return found

    Probes.run = run  # type: ignore[method-assign]


def test_kill_9_in_a_probe(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tree = inspected(run, 2, **{"linear-mae": 2 * BATCH})
    process = forked.train(tree, prepare=never_end_a_probe)
    until = time.monotonic() + forked.PATIENCE_S
    while not (checkpoints(run / "checkpoints") and probed(run, "knn-dino/z")):
        assert process.is_alive(), forked.log(tree)
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not probed(run, "linear-mae/z")
    tree["evaluation"]["during"] |= {"linear-reference": tree["evaluation"]["during"].pop("linear-mae")}
    assert forked.ends_with(forked.train(tree)) == 0, forked.log(tree)
    for key in ("loss", "knn-dino/z", "linear-reference/z"):
        assert probed(run, key)[2 * BATCH] == 1, key
