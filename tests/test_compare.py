"""`soda-fast compare` with reports that do not stand side by side by themselves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.test_report import SUBJECT

from soda_fast.compare import compare
from soda_fast.evaluation import Measurement, Result, Subject, write_report


def write(
    folder: Path, subject: Subject = SUBJECT, view: str = "clean", images: int = 2048, psnr: float = 20.0
) -> Path:
    result = Result("knn-reference", "z", {"k": 20, "temperature": None}, f"bank: {view}", 0.5)
    measured = Measurement("reconstruction", "PSNR", psnr, "dB", "higher", "", {"images": images}, "central square")
    write_report(folder / "evaluation.json", subject, {"trained": [result]}, {"trained": [measured]})
    return folder


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a" / "run", psnr=21.5), write(tmp_path / "b" / "run", psnr=22.5)
    table = compare([first, second, first])
    for words in ("a/run trained", "b/run trained", "21.5 dB", "22.5 dB"):
        assert words in table
    assert len(table.splitlines()) == 3 + 1 + 3
    assert compare([first]).splitlines()[1].startswith("run trained ")


def test_equal_settings_are_not_mentioned_and_others_are(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    assert "not equal" not in compare([first, write(tmp_path / "b")])
    other = replace(SUBJECT, features="L2-normalised, bf16, encoder in fp32", seeds=(3,))
    table = compare([first, write(tmp_path / "c", other, view="crops", images=100)])
    found = {line.removeprefix("not equal: ") for line in table.splitlines() if line.startswith("not equal")}
    assert found == {"features", "seeds", "knn-reference transform", "reconstruction images"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "no evaluation of this version"),
        ({"results": None}, "a damaged evaluation"),
        ({"results": [{"encoder": "trained"}]}, "a damaged evaluation"),
        ({"measures": [{"encoder": "trained", "transform": "", "setting": {}}]}, "a damaged evaluation"),
    ],
)
def test_damaged_reports_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    file = write(tmp_path / "run") / "evaluation.json"
    report = json.loads(file.read_text())
    file.write_text(json.dumps(report | change))
    with pytest.raises(ValueError, match=f"evaluation.json is {words}.*; run soda-fast evaluate again"):
        compare([tmp_path / "run"])
    del report["versions"]
    file.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="KeyError: 'versions'"):
        compare([tmp_path / "run"])
