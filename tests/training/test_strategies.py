"""One arithmetic, however it is spread: losses of the first 20 steps against a recording."""

import json
from pathlib import Path
from typing import Any

import pytest
from spawn import run_in_processes
from training.tiny import BATCH, losses, run_tiny, tiny_tree, with_two_resolutions

from soda_fast.config import ConfigError

STEPS = 20
# Losses of one process, by images seen. Record anew, where a change of the arithmetic is meant, with
#     python -c "from tests.training.test_strategies import record; record()"
RECORDING = Path(__file__).parent / "recorded_losses.json"


def tree(path: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Without dropout: the recording then also holds for other masks."""
    found = with_two_resolutions(tiny_tree(path, STEPS))
    found["model"]["decoder"]["dropout"] = 0.0
    for name, values in sections.items():
        found[name] = {**found.get(name, {}), **values}
    return found


def train(path: Path, sections: dict[str, Any]) -> None:
    run_tiny(tree(path, sections))


def record() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "one", {})
        RECORDING.write_text(json.dumps(losses(Path(folder) / "one"), indent=1) + "\n")


def assert_as_recorded(path: Path) -> None:
    """AdamW turns a rounding into a full-size update where a true gradient is zero: late losses may differ more."""
    recorded = {int(images): loss for images, loss in json.loads(RECORDING.read_text()).items()}
    found = losses(path)
    assert found.keys() == recorded.keys() == {BATCH * step for step in range(1, STEPS + 1)}
    for images, loss in found.items():
        assert loss == pytest.approx(recorded[images], rel=1e-5 if images <= 3 * BATCH else 1e-3), images


@pytest.mark.parametrize(("processes", "unit_mib"), [(1, 16), (2, 0), (3, 16), (4, 0)])
def test_fsdp(tmp_path: Path, processes: int, unit_mib: int) -> None:
    """Each block gathered for itself, and all of a network's at once."""
    run_in_processes(train, processes, tmp_path / "run", {"parallel": {"unit_mib": unit_mib}})
    assert_as_recorded(tmp_path / "run")


def test_ddp(tmp_path: Path) -> None:
    run_in_processes(train, 2, tmp_path / "run", {"parallel": {"strategy": "ddp"}})
    assert_as_recorded(tmp_path / "run")


def test_hsdp_two_by_two(tmp_path: Path) -> None:
    run_in_processes(train, 4, tmp_path / "run", {"parallel": {"strategy": "hsdp", "shard_processes": 2}})
    assert_as_recorded(tmp_path / "run")


@pytest.mark.parametrize("perf", [{"kernels": "pytorch"}, {"activation_checkpointing": True}], ids=str)
def test_other_ways_to_the_same_numbers(tmp_path: Path, perf: dict[str, Any]) -> None:
    train(tmp_path / "run", {"perf": perf})
    assert_as_recorded(tmp_path / "run")


def test_groups_that_do_not_come_out_even(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"parallel\.shard_processes is 2, which does not divide the 1 processes"):
        train(tmp_path / "run", {"parallel": {"strategy": "hsdp", "shard_processes": 2}})
