"""The table and evaluation.json."""

import json
from pathlib import Path

import pytest

from soda_fast.evaluation import (
    Measurement,
    Result,
    Subject,
    format_measurements,
    format_table,
    table_rows,
    versions,
    write_report,
)
from soda_fast.evaluation.report import Checkpoint, percent


def knn(features: str, k: int, accuracy: float, skipped: tuple[int, ...] = ()) -> Result:
    return Result("knn-dino", features, {"k": k, "temperature": 0.07}, "bank and queries: clean", accuracy, skipped)


def linear(features: str, accuracy: float) -> Result:
    return Result("linear-reference", features, {"epochs": 15}, "train: augmented; test: clean", accuracy)


SUBJECT = Subject(
    run="runs/digits",
    checkpoint=Checkpoint("images-000000100000", 100_000, "EMA of train.ema_beta 0.9999"),
    dataset="digits",
    dataset_hash={"train": "12ab", "test": "34cd"},
    transform="central square, 8 pixels",
    features="fp32",
    split_sizes={"train": 1347, "test": 450},
    num_classes=10,
    seed=3,
    seeds=(3, 4),
    device="CPU",
    seconds=1.23456,
)
RESULTS = {
    "trained": [
        knn("z", 10, 0.5),
        knn("z", 20, 0.94999),
        knn("z", 200, 0.99),
        Result("linear-reference", "z", {"passes": 15}, "train: augmented; test: clean", 0.985, (), (0.98, 0.99)),
        knn("pooled", 20, 0.7),
        linear("pooled", 0.57),
    ],
    "untrained": [knn("z", 20, 0.0999)],
    "pixels": [knn("pixels", 20, 0.29)],
}


@pytest.mark.parametrize(
    ("accuracy", "text"),
    [
        (0.9495, "94.9"),
        (0.94999999, "94.9"),
        (0.95, "95.0"),
        (0.9999, "99.9"),
        (1.0, "100.0"),
        (0.0, "0.0"),
        (1e-7, "0.0"),
        (1 / 3, "33.3"),
    ],
)
def test_percent_is_never_rounded_up(accuracy: float, text: str) -> None:
    assert percent(accuracy) == text


@pytest.mark.parametrize("total", [1000, 10_000, 449, 50_000])
def test_percent_is_the_floor_of_the_fraction(total: int) -> None:
    for correct in range(0, total + 1, max(1, total // 1000)):
        tenths = correct * 1000 // total
        assert percent(correct / total) == f"{tenths // 10}.{tenths % 10}"


def test_table() -> None:
    assert format_table(table_rows(RESULTS)).splitlines() == [
        "encoder    features  knn-dino k=20  linear-reference",
        "trained    z                  94.9         98.5 ±0.8",
        "trained    pooled             70.0              57.0",
        "untrained  z                   9.9                 -",
        "pixels     pixels             29.0                 -",
    ]


def test_report(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_report(path, SUBJECT, RESULTS | {"small": [knn("z", 10, 0.25, (20, 100, 200))]})
    report = json.loads(path.read_text())
    assert (report["schema"], report["measures"]) == (3, [])
    assert report["checkpoint"] == {
        "run": "runs/digits",
        "name": "images-000000100000",
        "images_seen": 100_000,
        "weights": "EMA of train.ema_beta 0.9999",
    }
    assert report["dataset_hash"] == {"train": "12ab", "test": "34cd"}
    assert (report["seeds"], report["seconds"], report["features"]) == ([3, 4], 1.235, "fp32")
    assert "8 pixels" in report["transform"]
    assert report["dataset"] == "digits"
    assert report["split_sizes"] == {"train": 1347, "test": 450}
    assert report["seed"] == 3
    assert report["device"] == "CPU"
    assert report["versions"] == versions()
    assert set(report["protocols"]) == {"knn-dino", "linear-reference"}
    assert "2104.14294" in report["protocols"]["knn-dino"]["source"]
    assert len(report["results"]) == 9
    assert report["results"][1] == {
        "encoder": "trained",
        "protocol": "knn-dino",
        "features": "z",
        "setting": {"k": 20, "temperature": 0.07},
        "transform": "bank and queries: clean",
        "accuracy": 0.94999,
        "skipped_ks": [],
        "per_seed": [],
        "deviation": None,
    }
    assert report["results"][-1]["skipped_ks"] == [20, 100, 200]
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]


MEASURED = [
    Measurement("reconstruction", "PSNR", 17.31561, "dB", "higher", "", {"images": 9}, "central square"),
    Measurement("frechet", "Frechet distance", 0.000123456, "", "lower", "pooled", {"images": 9}, "central square"),
]


def test_measures_stand_apart_from_accuracies(tmp_path: Path) -> None:
    write_report(tmp_path / "evaluation.json", SUBJECT, RESULTS, {"trained": MEASURED})
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(report["results"]) == 8
    assert report["measures"][0] == {
        "encoder": "trained",
        "protocol": "reconstruction",
        "measure": "PSNR",
        "value": 17.31561,
        "unit": "dB",
        "better": "higher",
        "features": "",
        "setting": {"images": 9},
        "transform": "central square",
    }
    assert "1706.08500" in report["protocols"]["frechet"]["source"]
    assert format_measurements({"trained": MEASURED}).splitlines() == [
        "encoder  features  protocol        measure           value",
        "trained  -         reconstruction  PSNR              17.32 dB   higher is better",
        "trained  pooled    frechet         Frechet distance  0.0001235  lower is better",
    ]


def test_a_number_that_is_none_is_refused_and_the_old_report_stays(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(path, SUBJECT, {"trained": [knn("z", 20, float("nan"))]})
    assert path.read_text() == "old"


def test_versions() -> None:
    found = versions()
    assert {"python", "soda_fast", "torch", "numpy", "pillow", "scikit-learn", "scikit-image"} <= set(found)
