"""Disks that fill up, cannot be written, or give back other bytes than were written."""

import errno
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import forked
import pytest
from training.tiny import BATCH, tiny_tree, weights_hash

from soda_fast.files import write_atomically
from soda_fast.run_lock import RunLock
from soda_fast.training.checkpoint_files import checkpoints, latest, to_remove

SMALL = 100_000  # bytes: larger than metrics, smaller than a checkpoint
UNLIMITED = resource.RLIM_INFINITY


def wait_until(condition: Any, tree: dict[str, Any], process: Any) -> None:
    until = time.monotonic() + forked.PATIENCE_S
    while not condition():
        assert process.is_alive(), forked.log(tree)
        assert time.monotonic() < until, forked.log(tree)
        time.sleep(0.005)


def test_a_full_disk_passes(tmp_path: Path) -> None:
    """Saves fail for a while: training goes on, the earlier checkpoint stays, later ones are written again."""
    tree = tiny_tree(tmp_path / "run", 20_000, save_every_images=4 * BATCH, keep_checkpoints=1, max_failed_saves=5000)
    tree["train"]["log_every_images"] = 1000 * BATCH  # what is printed stays below the limit too, however long it takes
    root = tmp_path / "run" / "checkpoints"
    process = forked.train(tree)
    wait_until(lambda: checkpoints(root), tree, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SMALL, UNLIMITED))
    wait_until(lambda: forked.log(tree).count("could not be written") >= 2, tree, process)
    (survivor,) = checkpoints(root)
    assert latest(root) == (survivor, [])
    assert len(list(root.glob("*.tmp"))) <= 1, "what failed is cleared away"
    assert "training goes on, the last good one is of" in forked.log(tree)
    assert "as on a full disk" in forked.log(tree)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
    wait_until(lambda: (found := checkpoints(root)) and found[-1] > survivor, tree, process)
    os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]
    assert forked.ends_with(process) == 75


def test_a_disk_that_stays_full_ends_the_training(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 3)
    assert forked.ends_with(forked.train(tree)) == 0
    before = weights_hash(tmp_path / "run")
    tree = tiny_tree(tmp_path / "run", 2000, save_every_images=2 * BATCH, max_failed_saves=3)
    process = forked.train(tree, limits={resource.RLIMIT_FSIZE: SMALL})
    assert forked.ends_with(process) == 1
    told = forked.log(tree)
    assert told.count("images could not be written") == 3
    assert f"saving failed 3 times in a row; the last good one is of {3 * BATCH} images; free space" in told
    assert "Traceback" not in told
    assert weights_hash(tmp_path / "run") == before
    # With space again, the same command goes on.
    tree["train"]["images"] = 5 * BATCH
    assert forked.ends_with(forked.train(tree)) == 0


def test_the_last_checkpoint_must_succeed(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 2)
    assert forked.ends_with(forked.train(tree, limits={resource.RLIMIT_FSIZE: SMALL})) == 1
    assert "there is none yet; free space" in forked.log(tree)
    assert forked.ends_with(forked.train(tree)) == 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_said_and_passed_over(tmp_path: Path, damage: str) -> None:
    tree = tiny_tree(tmp_path / "run", 4, save_every_images=2 * BATCH)
    assert forked.ends_with(forked.train(tree)) == 0
    before = weights_hash(tmp_path / "run")
    newer = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    data = newer / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "flip":
        data.write_bytes(content)
    elif damage == "truncate":
        data.write_bytes(content[:-1])
    else:
        data.unlink()
    assert forked.ends_with(forked.train(tree)) == 0
    told = forked.log(tree)
    assert f"warning: checkpoint {newer} is damaged" in told
    assert f"resuming {tmp_path / 'run'} at {2 * BATCH} of" in told
    assert weights_hash(tmp_path / "run") == before
    assert (newer.parent / f"damaged-{newer.name}").is_dir(), "set aside, not deleted"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file" / "run", Path("/proc/no/run"), Path("/sys/run")):
        tree = tiny_tree(run, 2)
        config = tmp_path / "config.yaml"
        config.write_text(str(tree))
        from soda_fast.cli import main

        assert main(["train", str(config)]) == 2


def no_space(*arguments: Any) -> None:
    """What the system says of a full disk: no file's name."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left on device") as told:
        write_atomically(tmp_path / "file", b"new")
    assert told.value.filename == str(tmp_path / "file")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_full_disk_is_told_by_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_space)
        with pytest.raises(ValueError, match=r"run.dir .* cannot be written \(No space left on device\)"):
            RunLock(tmp_path).acquire()
    assert RunLock(tmp_path).acquire() is None, "it was given back"


def test_which_checkpoints_stay() -> None:
    assert to_remove([10, 20, 30, 40], keep=2, keep_every_images=0) == [10, 20]
    assert to_remove([10], keep=1, keep_every_images=0) == []
    assert to_remove([], keep=1, keep_every_images=25) == []
    # First at or after 25, 50, 75: these stay, however often this is asked.
    images = list(range(10, 110, 10))
    gone = to_remove(images, keep=1, keep_every_images=25)
    assert [i for i in images if i not in gone] == [30, 50, 80, 100]
    assert to_remove([30, 50, 80, 100], keep=1, keep_every_images=25) == []


def test_every_nth_stays_on_disk(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path / "run", 8, save_every_images=BATCH, keep_checkpoints=1, keep_every_images=3 * BATCH)
    assert forked.ends_with(forked.train(tree)) == 0
    images = [int(path.name.removeprefix("images-")) // BATCH for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert images == [3, 6, 8]
