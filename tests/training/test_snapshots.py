"""Snapshots of averages: the same files however a run is stopped or spread; and what is made of them."""

import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from training.tiny import BATCH, run_tiny, tiny_tree, trainer_of, weights_hash

from soda_fast.build import build_model
from soda_fast.config import ConfigError, config_from_tree
from soda_fast.parallel import start_processes
from soda_fast.posthoc import make_average
from soda_fast.pretrained import load_run
from soda_fast.run_directory import RunDirectory
from soda_fast.train import train
from soda_fast.training.average_files import Snapshot, read_snapshot, snapshots, write_snapshot
from soda_fast.training.checkpoint_files import checkpoints

PAIR = [0.05, 0.1]


def tree(path: Path, steps: int, **train_keys: Any) -> dict[str, Any]:
    """Snapshots every second step."""
    return tiny_tree(path, steps, **{"ema_lengths": PAIR, "ema_snapshot_images": 2 * BATCH, **train_keys})


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "averages").iterdir()}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven steps without a stop, a checkpoint of each."""
    path = tmp_path_factory.mktemp("snapshots") / "whole"
    run_tiny(tree(path, 7, save_every_images=BATCH, keep_checkpoints=9))
    return path


def test_their_files(whole_run: Path) -> None:
    found = snapshots(whole_run / "averages")
    assert [path.name for path in found][:2] == [f"images-{2 * BATCH:012d}-{length}.safetensors" for length in PAIR]
    assert {(one.steps, one.images_seen) for one in found.values()} == {(s, s * BATCH) for s in (2, 4, 6, 7)}
    assert {value.dtype for value in read_snapshot(next(iter(found))).values()} == {torch.float32}


def test_resumed_between_snapshots_bit_for_bit(whole_run: Path, tmp_path: Path) -> None:
    """The ends of parts have snapshots too, which a run without stops does not."""
    for steps in (3, 5, 7):
        run_tiny(tree(tmp_path / "parts", steps))
    assert weights_hash(tmp_path / "parts") == weights_hash(whole_run)
    parts, whole = contents(tmp_path / "parts"), contents(whole_run)
    assert parts.keys() > whole.keys()
    assert {name: parts[name] for name in whole} == whole


def test_a_killed_run_writes_the_same_again(whole_run: Path, tmp_path: Path) -> None:
    """As after a kill between a snapshot and the next checkpoint, with half a file left."""
    run = tmp_path / "killed"
    shutil.copytree(whole_run, run)
    for path in checkpoints(run / "checkpoints")[3:]:
        shutil.rmtree(path)
    for path in snapshots(run / "averages"):
        path.write_bytes(b"of another attempt") if "0072-" in path.name else None
    (run / "averages" / f".images-{8 * BATCH:012d}-0.05.safetensors.tmp").write_bytes(b"half")
    run_tiny(tree(run, 7, save_every_images=BATCH, keep_checkpoints=9))
    assert contents(run) == contents(whole_run)


def test_other_lengths_are_refused(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"train\.ema_lengths = \(0\.05, 0\.1\), not \(0\.05, 0\.2\)"):
        run_tiny(tree(tmp_path / "run", 9, ema_lengths=[0.05, 0.2]))
    with pytest.raises(ValueError, match=r"ema-0\.2\..* is absent; averages of train\.ema_lengths begin with a run"):
        train(config_from_tree(tree(tmp_path / "run", 9, ema_lengths=[0.05, 0.2])), accept_changes=True)


def test_nothing_else_changes(tmp_path: Path, whole_run: Path) -> None:
    run_tiny(tiny_tree(tmp_path / "without", 7))
    assert not (tmp_path / "without" / "averages").exists()
    without, beside = (load_run(RunDirectory(run))[0].state_dict() for run in (tmp_path / "without", whole_run))
    for name, value in without.items():
        assert torch.equal(value, beside[name]), name


def test_a_third_length_is_made_of_two(tmp_path: Path) -> None:
    """Against the same length tracked in training.

    The profile that is made is 0.1 % off, in L2; what that makes of weights is, by Cauchy-Schwarz, at most about that
    share of how far they moved under the profile, and float32 adds 1e-7 of their size. 1 % of the distance between the
    two averages that were kept allows for both.
    """
    run = tmp_path / "run"
    run_tiny(tree(run, 64, ema_lengths=[*PAIR, 0.07], log_every_images=64 * BATCH))
    config = RunDirectory(run).load_config()
    (newest,) = checkpoints(run / "checkpoints")

    def made(length: float, lengths: tuple[float, ...]) -> torch.Tensor:
        state = build_model(config).state_dict()
        known = replace(config, train=replace(config.train, ema_lengths=lengths))
        make_average(RunDirectory(run), known, newest, length, state)
        return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])

    tracked = {length: made(length, (*PAIR, 0.07)) for length in (*PAIR, 0.07)}
    for path, one in snapshots(run / "averages").items():
        if one.length == 0.07:
            path.unlink()
    distance = (tracked[0.05] - tracked[0.1]).norm()
    assert (tracked[0.07] - tracked[0.05]).norm() > 0.1 * distance
    assert (made(0.07, tuple(PAIR)) - tracked[0.07]).norm() < 0.01 * distance
    with pytest.raises(ValueError, match=r"cannot be made.*0\.05, 0\.1 from 32 moments.*ask for 0\.0\d to 0\.\d+$"):
        made(0.005, tuple(PAIR))


def write_at_the_start(folder: Path, parallel: dict[str, Any]) -> None:
    with start_processes("cpu") as processes:
        trainer = trainer_of({**tree(folder, 2), "parallel": parallel}, processes)
        trainer.snapshots.write(0, 0)


SPREADS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (2, {"strategy": "fsdp"}),
    (4, {"strategy": "hsdp", "shard_processes": 2}),
]


def test_files_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    """Of initial weights, which are the same on any number."""
    files = []
    for number, (processes, parallel) in enumerate(SPREADS):
        run_in_processes(write_at_the_start, processes, tmp_path / str(number), parallel)
        files.append(contents(tmp_path / str(number)))
    assert len(files[0]) == 2
    assert all(other == files[0] for other in files[1:])


def train_three_steps(path: Path) -> None:
    keys = tree(path, 3)
    keys["model"]["decoder"]["dropout"] = 0.0
    run_tiny(keys)


def test_two_processes_average_as_one_does(tmp_path: Path) -> None:
    """A first step of AdamW is the sign of the gradient, so a rounding can turn single weights: the mean is told of."""
    for processes in (1, 2):
        run_in_processes(train_three_steps, processes, tmp_path / str(processes))
    one, two = (snapshots(tmp_path / str(processes) / "averages") for processes in (1, 2))
    assert list(one.values()) == list(two.values())
    for first, second in zip(one, two, strict=True):
        a, b = read_snapshot(first), read_snapshot(second)
        assert list(a) == list(b)
        for name in a:
            assert (a[name] - b[name]).abs().mean() < 1e-6, name


def test_a_disk_that_takes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "averages").write_bytes(b"")
    run_tiny(tree(run, 4))
    told = capsys.readouterr().out
    assert told.count("warning: a snapshot of the averages could not be written") == 1
    assert "training goes on without it" in told


def test_half_a_file_is_cleared_away(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    one = Snapshot(length=0.05, images_seen=12, steps=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_snapshot(tmp_path / "averages", one, {"a": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "averages").iterdir()) == []


@pytest.mark.parametrize("lengths", [[0.05, 0.05], [0.0], [0.3], [0.05, 0.1, 0.15, 0.2, 0.25]])
def test_lengths_that_cannot_be(tmp_path: Path, lengths: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"train\.ema_lengths"):
        config_from_tree(tree(tmp_path, 2, ema_lengths=lengths))


def test_no_memory_for_a_copy_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("soda_fast.training.snapshots.write_snapshot", exhausted)
    run_tiny(tree(tmp_path / "run", 2))
    assert "a snapshot of the averages could not be written (Cannot allocate memory)" in capsys.readouterr().out
    assert checkpoints(tmp_path / "run" / "checkpoints")
