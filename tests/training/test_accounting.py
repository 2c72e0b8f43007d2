"""What a run costs."""

import json
import math
from pathlib import Path

import pytest
import torch
from training.tiny import read_metrics, run_tiny, tiny_tree

from soda_fast.parallel import start_processes
from soda_fast.training.accounting import energy_counter, last_values, share_of_peak, spent
from soda_fast.training.metrics import Metrics


def test_the_share_of_the_peak() -> None:
    # 40.7 GFLOP an image at the design's ceiling of 19,400 images/s: 790 of an H200's 989 TFLOP/s.
    assert share_of_peak(40.7e9, 19_400, 1, 989) == pytest.approx(0.798, abs=1e-3)
    assert share_of_peak(40.7e9, 8 * 19_400, 8, 989) == pytest.approx(0.798, abs=1e-3)


def test_on_a_cpu_there_is_nothing_to_count(tmp_path: Path) -> None:
    lines = run_tiny(tiny_tree(tmp_path, steps=1))
    assert not {"mfu", "gpu_hours", "energy_kwh"} & set(lines[0])
    assert math.isnan(energy_counter(torch.device("cpu"))())


def test_hours_and_energy_go_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"images_seen": 12, "gpu_hours": 0.5, "energy_kwh": 1.0}\n{"images_seen": 24, "gpu_hours": 1.5}\n')
    before = last_values(path, ("gpu_hours", "energy_kwh"))
    assert before == {"gpu_hours": 1.5, "energy_kwh": 1.0}
    assert spent(2, 3600, 7.2e6, before) == {"gpu_hours": 3.5, "energy_kwh": 3.0}
    assert spent(8, 1800, math.nan, {}) == {"gpu_hours": 4.0}


def test_the_newest_values(tmp_path: Path) -> None:
    assert last_values(tmp_path / "none.jsonl", ("gpu_hours",)) == {}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"gpu_hours": n, "loss": 1}) + "\n" for n in (1, 2)))
    assert last_values(tmp_path / "metrics.jsonl", ("gpu_hours", "energy_kwh")) == {"gpu_hours": 2}


def test_the_log_line_says_what_mfu_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_processes("cpu") as processes:
        metrics = Metrics(tmp_path, 100, processes)
        metrics.start(0)
        with metrics:
            metrics.log(10, {"loss": 1.0, "images_per_second": 10.0, "mfu": 0.412})
    assert "MFU 41.2 % (convolutions, linear layers, attention)" in capsys.readouterr().out
    assert read_metrics(tmp_path)[0]["mfu"] == 0.412


@pytest.mark.gpu
def test_gpu_hours_on_a_gpu(tmp_path: Path) -> None:
    lines = run_tiny(tiny_tree(tmp_path, steps=2))
    assert 0 < lines[0]["gpu_hours"] < lines[1]["gpu_hours"] < 1
