"""metrics.jsonl on a full disk, and with damaged lines."""

import json
import resource
from pathlib import Path

import pytest
from training.tiny import BATCH, read_metrics, run_tiny, tiny_tree

from soda_fast.training.lines import PatientLines


def test_lines_wait_for_room(tmp_path: Path) -> None:
    """More of them than a file's buffer holds, the first of them torn by the limit."""
    written = [f"{number:0100d}" for number in range(300)]
    lines = PatientLines(tmp_path / "lines")
    lines.write(written[0])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        for line in written[1:-1]:
            try:
                lines.write(line)
            except OSError:
                refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused == lines.waiting == 298
    lines.write(written[-1])
    lines.close()
    assert lines.waiting == 0
    assert (tmp_path / "lines").read_text().splitlines() == written


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(tiny_tree(tmp_path / "run", 1))
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = read_metrics(tmp_path / "run")
    damage = b'{"loss": 1.0}\n[]\n7\n{"images_seen": "1"}\n\x00\xff\n{"images_se'
    metrics.write_bytes(metrics.read_bytes() + damage)
    capsys.readouterr()
    lines = run_tiny(tiny_tree(tmp_path / "run", 2))
    assert "warning: 6 damaged lines of " in capsys.readouterr().out
    assert lines[: len(whole)] == whole
    assert lines[-1]["images_seen"] == 2 * BATCH
    json.loads(metrics.read_text().splitlines()[-1])
