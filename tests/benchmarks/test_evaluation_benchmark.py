"""The benchmark of evaluation runs small, and its two ways agree."""

import json
from pathlib import Path

import pytest

from benchmarks.evaluation import KS, main


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evaluation.json"
    sizes = ["--bank", "600", "--queries", "200", "--width", "32", "--rounds", "2"]
    assert main([*sizes, "--device", "cpu", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    ours, theirs = result["knn"]["accuracy"]["ours"], result["knn"]["accuracy"]["scikit-learn"]
    assert set(ours) == {str(k) for k in KS}
    assert all(ours[k] == pytest.approx(theirs[k], abs=0.006) for k in ours)
    assert all(len(seconds) == 2 for seconds in result["knn"]["seconds"].values())
    assert "times scikit-learn" in capsys.readouterr().out


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bank", "20"])
    assert "--bank must be at least 200" in capsys.readouterr().err
