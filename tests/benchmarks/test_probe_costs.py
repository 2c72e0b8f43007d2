"""The benchmark of whole protocols runs small, with every way of encoding and the reference's beside ours."""

import json
from pathlib import Path

import pytest

from benchmarks.probe_costs import main

ROOT = Path(__file__).parents[2]
TINY = [
    "model.encoder.arch=small",
    "model.encoder.widths=[8]",
    "model.encoder.depths=[1]",
    "model.encoder.z_dim=8",
    "data.source_size=8",
    "evaluation.protocols=[knn-dino]",
]


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "costs.json"
    sizes = ["--train", "256", "--test", "32", "--batches", "1", "--rounds", "2", "--json", str(path)]
    assert main(["--config", str(ROOT / "configs" / "cifar10.yaml"), *TINY, *sizes]) == 0
    result = json.loads(path.read_text())
    assert (result["train"], result["test"]) == (256, 32)
    assert list(result)[-3:] == ["encoding", "reference", "protocols"], "the longest comes last"
    assert set(result["encoding"]) == {"fp32", "fp32, compiled", "bf16", "bf16, compiled"}
    assert set(result["protocols"]) == {"configured"}
    assert "times the reference's way" in capsys.readouterr().out


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(ROOT / "configs" / "cifar10.yaml")]
    with pytest.raises(SystemExit):
        main([*config, "--train", "20"])
    assert "--train must be at least 220" in capsys.readouterr().err
    assert main([*config, "data.source_sise=8"]) == 2
    assert "data.source_sise" in capsys.readouterr().err
