"""The loaders' benchmark: its contestants make the same views, its sums are right, its report is whole."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import input_pipeline
from benchmarks.input_loaders import Opened, make_images, open_torchvision
from benchmarks.input_pipeline import (
    CASES,
    Contestant,
    Result,
    Row,
    contestants,
    format_result,
    measure,
    parse,
    step_rate,
    times_reference,
)

SMALL = replace(CASES["64"], source_size=24, target_size=16, height=20, width=28)


@pytest.mark.parametrize("encoded", [True, False])
def test_all_contestants_give_batches_of_both_views(encoded: bool, tmp_path: Path) -> None:
    case = replace(SMALL, encoded=encoded)
    images = make_images(case, tmp_path, 16)
    names = set()
    for contestant in contestants(case, images, threads=[1], batches=[8], gpu=False):
        names.add(contestant.name)
        with contestant.open() as batches:
            for batch in itertools.islice(batches, 3):
                source, target = (batch.source, batch.target) if hasattr(batch, "source") else batch
                assert source.shape == (8, 3, 24, 24), contestant.name
                assert target.shape == (8, 3, 16, 16), contestant.name
                assert source.dtype == target.dtype == torch.float32
    assert names >= {"soda_fast dali", "torchvision reference", "torchvision repaired", "synthetic"}


def test_a_gpu_shows_what_the_kernels_for_views_are_worth(tmp_path: Path) -> None:
    case = replace(SMALL, encoded=False)
    everyone = contestants(case, make_images(case, tmp_path, 8), threads=[1], batches=[8], gpu=True)
    assert {"soda_fast batched", "soda_fast batched, tensors"} <= {one.name for one in everyone if one.device == "cuda"}


def test_torchvisions_views_have_the_statistics_of_ours(tmp_path: Path) -> None:
    """Mean and deviation of both views over 256 images: the same recipe, drawn otherwise."""
    images = make_images(SMALL, tmp_path, 128)
    ours, *_ = contestants(SMALL, images, threads=[1], batches=[256], gpu=False)
    with ours.open() as batches:
        mine = next(batches)
    with open_torchvision(SMALL, images, workers=1, batch=256, decodes=2) as batches:
        source, target = next(batches)
    for left, right in ((mine.source, source), (mine.target, target)):
        assert abs(left.mean() - right.mean()) < 0.15 * right.std()
        assert abs(left.std() / right.std() - 1) < 0.15


def test_rates_are_images_over_time_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    class Paced:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def __next__(self) -> None:
            self.now()

        def now(self) -> None:
            nonlocal time
            time += self.seconds

    time = 0.0
    monkeypatch.setattr(input_pipeline.time, "perf_counter", lambda: time)

    def contestant(name: str, seconds: float) -> Contestant:
        @contextmanager
        def opened() -> Iterator[Iterator[object]]:
            turns.append(name)
            yield Paced(seconds)

        def start() -> Opened:
            return opened()

        return Contestant(name, "cpu", 1, 10, start)

    rows = measure([contestant("slow", 0.5), contestant("fast", 0.1)], rounds=2, seconds=1.0)
    assert turns == ["slow", "fast"] * 2
    assert [row.median for row in rows] == pytest.approx([20.0, 100.0])


def test_the_rate_that_a_step_needs_follows_from_its_arithmetic() -> None:
    need = step_rate(CASES["32"], 400.0)
    assert need is not None
    assert need["gflop_per_image"] == pytest.approx(40.7, abs=0.1)
    assert need["images_per_second"] == pytest.approx(400e3 / 40.7, rel=0.01)
    assert step_rate(CASES["32"], None) is None


def test_the_report_is_whole_and_says_how_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(input_pipeline, "CASES", {"64": SMALL})
    out = tmp_path / "report.json"
    monkeypatch.setattr(
        "sys.argv",
        ["input_pipeline", "--sizes", "64", "--randaugment", "with", "--threads", "1", "--batch", "8", "--images", "8",
         "--rounds", "1", "--seconds", "0.01", "--step-rate", "1234", "--no-gpu", "--json", str(out)],
    )  # fmt: skip
    assert input_pipeline.main() == 0
    report = json.loads(out.read_text())
    assert len({row["name"] for row in report["rows"]}) == len(report["rows"]) >= 3
    for row in report["rows"]:
        rate = row["images_per_second"]
        assert 0 < rate["lower_quartile"] <= rate["median"] <= rate["upper_quartile"]
        assert row["step"] == {"images_per_second": 1234.0}
    assert "the training step needs  1,234 images/s" in capsys.readouterr().out


def test_times_are_medians_over_rounds_and_compare_like_with_like() -> None:
    rows = [
        Row("soda_fast dali", "cpu", 2, 8, (50.0, 80.0, 90.0)),
        Row("soda_fast dali", "cpu", 1, 8, (50.0, 80.0, 90.0)),
        Row("torchvision reference", "cpu", 2, 8, (20.0, 20.0, 30.0)),
    ]
    assert [times_reference(rows, row) for row in rows] == [3.0, None, 1.0]
    assert "    3.00" in format_result(Result(SMALL, rows, None))


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--images", "100"], ["--seconds", "0"]])
def test_arguments_that_cannot_be_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert arguments[0] in capsys.readouterr().err
