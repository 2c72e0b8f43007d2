"""Peak memory in metrics.jsonl: where it is counted, and only there."""

from pathlib import Path

import pytest
import torch
from training.tiny import run_tiny, tiny_tree


@pytest.mark.gpu
def test_every_interval_reports_its_peak(tmp_path: Path) -> None:
    big = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del big  # in no interval of the run but, at most, the first
    lines = [line for line in run_tiny(tiny_tree(tmp_path / "run", steps=4)) if "loss" in line]
    peaks = [line["peak_memory_gib"] for line in lines]
    assert len(peaks) == 4
    assert all(0 < peak < 0.25 for peak in peaks[1:])


def test_nothing_is_made_up_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (line,) = [line for line in run_tiny(tiny_tree(tmp_path / "run", steps=1)) if "loss" in line]
    assert "peak_memory_gib" not in line
