"""kill -9 at random moments, while checkpoints are written too: nothing is lost but the steps since the last one."""

import random
import time
from pathlib import Path

import forked
import pytest
from training.tiny import BATCH, losses, tiny_tree, weights_hash

KILLS = 30
STEPS = 16


def train(run: Path) -> "forked.ForkServerProcess":
    return forked.train(tiny_tree(run, STEPS, save_every_images=2 * BATCH))


def is_writing(run: Path) -> bool:
    return any((run / "checkpoints").glob(".images-*.tmp"))


@pytest.mark.slow
def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    moments = random.Random(0)
    runs, kills, while_writing = [tmp_path / "killed-0"], 0, 0
    while kills < KILLS:
        process = train(runs[-1])
        wait_for_writing = kills % 2 == 0
        # On a busy machine a process may take long to come to its first save.
        until = time.monotonic() + (60 if wait_for_writing else moments.uniform(0.2, 3.0))
        while process.is_alive() and time.monotonic() < until:
            if wait_for_writing and is_writing(runs[-1]):
                time.sleep(moments.uniform(0.0, 0.05))  # a moment of the writing
                break
            time.sleep(0.002)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            while_writing += is_writing(runs[-1])
        else:
            # It came to its end before the moment did: the next one begins anew.
            assert process.exitcode == 0, runs[-1].with_suffix(".log").read_text()
            runs.append(tmp_path / f"killed-{len(runs)}")
    assert while_writing >= 5, "too few kills met a save"
    for run in runs:
        last = train(run)
        last.join()
        assert last.exitcode == 0, run.with_suffix(".log").read_text()
        assert weights_hash(run) == weights_hash(tmp_path / "whole")
        assert losses(run) == losses(tmp_path / "whole")
        assert not is_writing(run)
