"""Training with the rest of the paper switched on: layer modulation and masking, its initial weights, v, min-SNR."""

from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import run_in_processes
from training.tiny import BATCH, losses, run_tiny, tiny_tree, with_two_resolutions

import soda_fast

STEPS = 6


def tree(path: Path, **perf: Any) -> dict[str, Any]:
    found = with_two_resolutions(tiny_tree(path, STEPS))
    found["model"] |= {"modulation": "layerwise", "initialisation": "paper"}
    found["model"]["decoder"] |= {"dropout": 0.0, "rescale": True}
    found["diffusion"] |= {
        "schedule": "inverted",
        "time_embedding": "scaled",
        "prediction": "v",
        "loss_weighting": "min-snr",
        "section_drop_probability": [0.1, 0.2, 0.3],
    }
    found["sampling"] |= {"solver": "dpm-solver++", "guidance": [0.1, 0.2, 0.3]}
    return {**found, "perf": perf}


def train(path: Path, perf: dict[str, Any]) -> None:
    run_tiny(tree(path, **perf))


def assert_close(found: dict[int, float], expected: dict[int, float]) -> None:
    assert found.keys() == expected.keys() == {BATCH * step for step in range(1, STEPS + 1)}
    for images, loss in found.items():
        assert loss == pytest.approx(expected[images], rel=1e-5 if images <= 3 * BATCH else 1e-3), images


def test_however_many_processes_and_whatever_computes_it(tmp_path: Path) -> None:
    train(tmp_path / "one", {})
    expected = losses(tmp_path / "one")
    run_in_processes(train, 2, tmp_path / "two", {})
    assert_close(losses(tmp_path / "two"), expected)
    train(tmp_path / "recomputed", {"activation_checkpointing": True})
    assert_close(losses(tmp_path / "recomputed"), expected)

    model = soda_fast.load(tmp_path / "one")
    z = model.encode(torch.randn(2, 3, 8, 8))
    by_section = model.sample(z, 4, [0.0, 0.5, 1.0], solver="dpm-solver++")
    assert not torch.equal(by_section, model.sample(z, 4, 0.5, solver="dpm-solver++"))
    with pytest.raises(ValueError, match=r"sampling\.guidance is \[0\.1, 0\.2\], 2 entries, but z has 3 sections"):
        model.sample(z, 4, [0.1, 0.2])
