"""The suite keeps what it had, whatever ends it; records, the ledger and comparisons."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import compare, paired_ratio
from benchmarks.ladder.timeline import PHASES
from benchmarks.measurements import measurements
from benchmarks.record import PartResult, Record, json_schema, read_record, write_record
from benchmarks.report import END, START, add, ledger, put_into_readme, write_report
from benchmarks.suite.parts import Part
from benchmarks.suite.run import LEAST_S, Budget, run_suite

ROOT = Path(__file__).parents[2]


def record(machine: str = "test", started: str = "2026-01-02T03:04:05+00:00", small: bool = False) -> Record:
    environment = {"device": f"NVIDIA {machine}", "commit": "abc1234", "python": "3.12", "packages": {"torch": "2"}}
    return Record(started, machine, "cuda", small, "python -m benchmarks.gpu_suite", 9.0, environment)


def python(code: str, name: str = "part", limit_s: float = 30.0) -> Part:
    """A part that runs `code` with the result's path in `answer`."""
    program = f"import sys, json, time, pathlib; answer = pathlib.Path(sys.argv[1]); {code}"
    return Part(name, name, lambda answer: [sys.executable, "-c", program, str(answer)], limit_s)


WRITE = "answer.write_text(json.dumps({'figure': 7}))"


def run(tmp_path: Path, parts: list[Part], seconds: float = 60.0) -> Record:
    run_suite(record(), parts, Budget(time.monotonic() + seconds), tmp_path / "record.json", lambda text: None)
    return read_record(tmp_path / "record.json")


def test_every_part_says_how_it_ended(tmp_path: Path) -> None:
    parts = [
        python(WRITE, "good"),
        python(f"{WRITE}; print('oh no'); sys.exit(3)", "bad"),
        python(f"{WRITE}; time.sleep(60)", "slow", limit_s=1.0),
        python("answer.write_text('{')", "half"),
        Part("absent", "absent", lambda answer: [], 9.0, missing="there is no GPU"),
    ]
    found = {part.name: part for part in run(tmp_path, parts).parts}
    assert {name: part.status for name, part in found.items()} == {
        "good": "measured",
        "bad": "failed",
        "slow": "cut off",
        "half": "failed",
        "absent": "left out",
    }
    assert found["good"].result == found["bad"].result == found["slow"].result == {"figure": 7}
    assert found["bad"].reason == "exit status 3"
    assert "oh no" in found["bad"].log
    assert found["half"].result is None
    assert found["absent"].reason == "there is no GPU"
    assert not list(tmp_path.glob("*.part.json"))


def test_what_the_time_does_not_reach_is_not_started(tmp_path: Path) -> None:
    (part,) = run(tmp_path, [python(WRITE)], seconds=LEAST_S / 2).parts
    assert (part.status, part.reason) == ("not reached", "the suite's minutes were over")


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.benchmarks.test_suite import python, record, WRITE
from benchmarks.suite.run import Budget, run_suite
signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
child = "import os; pathlib.Path(sys.argv[1]).with_name('pid').write_text(str(os.getpid())); time.sleep(60)"
parts = [python(WRITE, "first"), python(WRITE + "; " + child, "second"), python(WRITE, "third")]
run_suite(record(), parts, Budget(time.monotonic() + 60), Path({folder!r}) / "record.json", print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_suite_leaves_what_it_had(tmp_path: Path, number: int) -> None:
    suite = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(root=str(ROOT), folder=str(tmp_path))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")])},
    )
    pid = tmp_path / "pid"
    while not pid.exists() or not pid.read_text():
        assert suite.poll() is None
        time.sleep(0.05)
    suite.send_signal(number)
    suite.wait(timeout=30)
    found = {part.name: part for part in read_record(tmp_path / "record.json").parts}
    assert found["first"].status == "measured"
    assert found["third"].status == "not reached"
    if number == signal.SIGTERM:
        assert (found["second"].status, found["second"].result) == ("cut off", {"figure": 7})
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
    else:
        assert json.loads((tmp_path / "second.part.json").read_text()) == {"figure": 7}
        os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "name",
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "benchmarks").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ],
)
def test_every_benchmark_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    write_record(path, record())
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "minutes": "many"}))
    with pytest.raises(ValueError, match=r"wrong\.json is not a benchmark record: minutes: "):
        read_record(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a benchmark record"):
        read_record(path)
    assert set(json_schema()["required"]) >= {"machine", "environment"}


def with_ladder(rate: float, spread: float, machine: str = "test", **keys: Any) -> Record:
    found = record(machine, **keys)
    row = {
        "name": "trainer",
        "status": "measured",
        "images_per_second": {"median": rate, "lower_quartile": rate - spread, "upper_quartile": rate + spread},
        "step_s": 0.05,
        "phase_s": dict.fromkeys(PHASES, 0.00625),
        "peak_memory_gib": 12.0,
        "mfu_measured": 0.5,
        "mfu_data_sheet": None,
        "times_published": 7.25,
        "times_repaired": None,
    }
    failed = {"name": "compile", "status": "failed", "error": "no compiler"}
    verdict = {"target": "images/s", "at_least": 9700.0, "reached": rate, "met": rate >= 9700}
    result = {"rungs": [failed, row], "targets": [verdict], "mfu_counts": "convolutions"}
    part = python("", "ladder_32")
    found.parts = []
    found.parts.append(PartResult(part.name, "the ladder", "measured", result=result))
    found.parts.append(PartResult("memory", "memory", "cut off", reason="did not end"))
    return found


@pytest.mark.parametrize(("rate", "verdict"), [(110.0, "better"), (90.0, "WORSE"), (101.0, "")])
def test_only_what_is_beyond_the_spread_is_marked(rate: float, verdict: str) -> None:
    (found,) = compare(measurements(with_ladder(100.0, 2.0)), measurements(with_ladder(rate, 2.0)))
    assert found.name == "ladder_32/trainer"
    assert found.value == pytest.approx(rate / 100)
    assert found.verdict == verdict


def test_pairs_are_compared_one_by_one() -> None:
    slower = paired_ratio("step", [(1.0, 1.2), (2.0, 2.4), (1.5, 1.8), (1.0, 1.21), (1.0, 1.19)])
    assert slower.value == pytest.approx(1.2)
    assert slower.verdict == "WORSE"  # of seconds
    assert paired_ratio("step", [(1.0, 1.2), (1.0, 0.8), (1.0, 1.01), (1.0, 0.99)]).verdict == ""


def test_the_ledger_keeps_the_newest_of_each_machine(tmp_path: Path) -> None:
    for number, one in enumerate(
        [
            with_ladder(9000.0, 10.0, "h200", started="2026-01-01T00:00:00+00:00"),
            with_ladder(9800.0, 10.0, "h200", started="2026-02-01T00:00:00+00:00"),
            with_ladder(10.0, 1.0, "cpu", small=True),
        ]
    ):
        write_record(tmp_path / f"{number}.json", one)
        add(tmp_path / f"{number}.json", tmp_path / "results")
    records = ledger(tmp_path / "results")
    assert sorted(one.machine for one in records) == ["cpu", "h200"]
    text = write_report(records, tmp_path).read_text()
    assert "| trainer | 9,800.0 |" in text
    assert "9,000" not in text
    assert "| compile | failed | no compiler |" in text
    assert "| data, ms | forward, ms | backward, ms | optimizer, ms | ema, ms | other, ms |" in text
    assert "target 9,700, reached 9,800.00, met" in text
    assert "- memory: cut off, did not end" in text
    assert "nothing here is a statement about speed" in text
    readme = put_into_readme(f"before\n{START}\nold\n{END}\nafter\n", records)
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme
    assert "NVIDIA h200, 32x32, CIFAR-10's configuration: 9,800 images/s (9,790 .. 9,810), 7.2 times" in readme
    assert "cpu" not in readme
    pictures = list(tmp_path.glob("plots/*/ladder_32.png"))
    assert len(pictures) == 2
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_a_record_of_some_parts_hides_no_other(tmp_path: Path) -> None:
    """Not by being newer, nor by being of the same day and commit, nor by small sizes."""
    whole = with_ladder(9800.0, 10.0, "h200", started="2026-02-01T00:00:00+00:00")
    whole.parts.append(PartResult("kernels", "the kernels", "measured", result={}))
    broken = with_ladder(1.0, 0.1, "h200", started="2026-02-01T03:00:00+00:00")
    broken.parts = [replace(part, status="cut off") for part in broken.parts]
    broken.parts.append(PartResult("kernels", "the kernels", "measured", result={}))
    small = with_ladder(10.0, 1.0, "h200", small=True, started="2026-03-01T00:00:00+00:00")
    for number, one in enumerate((whole, broken, small)):
        write_record(tmp_path / f"{number}.json", one)
        add(tmp_path / f"{number}.json", tmp_path / "results")
        add(tmp_path / f"{number}.json", tmp_path / "results")  # twice is once
    assert len(list((tmp_path / "results").glob("*/*.json"))) == 3
    newest, earlier = ledger(tmp_path / "results")
    assert newest.started == broken.started
    assert [part.name for part in earlier.parts] == ["ladder_32"], "the kernels have been measured since"
    text = write_report([newest, earlier], tmp_path).read_text()
    assert "parts measured on 2026-02-01" in text
    assert "| trainer | 9,800.0 |" in text


def test_the_readme_says_what_the_ledger_says() -> None:
    text = (ROOT / "README.md").read_text()
    assert put_into_readme(text, ledger()) == text, "run python -m benchmarks.report"
