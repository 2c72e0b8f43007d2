"""The suite keeps what it had, whatever ends it; records, the ledger and comparisons."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import compare, paired_ratio
from benchmarks.gpu_suite import put_aside
from benchmarks.ladder.timeline import PHASES
from benchmarks.measurements import measurements
from benchmarks.record import PartResult, Record, json_schema, read_record, write_record
from benchmarks.report import END, START, add, ledger, put_into_readme, unmeasured, write_report
from benchmarks.suite import process
from benchmarks.suite import run as suite_run
from benchmarks.suite.parts import Options, Part, all_parts
from benchmarks.suite.places import places_of
from benchmarks.suite.run import LEAST_S, Budget, recover, run_suite

ROOT = Path(__file__).parents[2]


def record(machine: str = "test", started: str = "2026-01-02T03:04:05+00:00", small: bool = False) -> Record:
    environment = {"device": f"NVIDIA {machine}", "commit": "abc1234", "python": "3.12", "packages": {"torch": "2"}}
    return Record(started, machine, "cuda", small, "python -m benchmarks.gpu_suite", 9.0, environment)


def python(code: str, name: str = "part", limit_s: float = 30.0) -> Part:
    """A part that runs `code` with the result's path in `answer`."""
    program = f"import sys, json, time, pathlib; answer = pathlib.Path(sys.argv[2]); {code}"
    return Part(name, name, (sys.executable, "-c", program), limit_s)


WRITE = "answer.write_text(json.dumps({'figure': 7}))"


def run(tmp_path: Path, parts: list[Part], seconds: float = 60.0) -> Record:
    run_suite(record(), parts, Budget(time.monotonic() + seconds), tmp_path / "record.json", lambda text: None)
    return read_record(tmp_path / "record.json")


def test_every_part_says_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_written(command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str]) -> process.Ended:
        """The slow part has its result, however short its time."""
        if command[-1].endswith("slow.part.json"):
            Path(command[-1]).write_text(json.dumps({"figure": 7}))
        return process.run(command, limit_s, log, environment)

    monkeypatch.setattr(suite_run, "run", run_written)
    parts = [
        python(WRITE, "good"),
        python(f"{WRITE}; print('oh no'); sys.exit(3)", "bad"),
        python("time.sleep(600)", "slow", limit_s=1.0),
        python("answer.write_text('{')", "half", limit_s=60.0),  # so that there is nothing to spare for the one before
        Part("absent", "absent", (), 9.0, missing="there is no GPU"),
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
    assert found["bad"].reason == "exit status 3: oh no"
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
child = (
    "import os, subprocess; "
    "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
    "pathlib.Path(sys.argv[2]).with_name('pid').write_text(f'{{os.getpid()}} {{own.pid}}.'); time.sleep(60)"
)
parts = [python(WRITE, "first"), python(WRITE + "; " + child, "second"), python(WRITE, "third")]
run_suite(record(), parts, Budget(time.monotonic() + 60), Path({folder!r}) / "record.json", print)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_suite_leaves_what_it_had(tmp_path: Path, number: int) -> None:
    suite = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(root=str(ROOT), folder=str(tmp_path))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")])},
    )
    pids = tmp_path / "pid"
    while not pids.exists() or not pids.read_text().endswith("."):
        assert suite.poll() is None
        time.sleep(0.05)
    suite.send_signal(number)
    suite.wait(timeout=60)
    found = {part.name: part for part in recover(tmp_path / "record.json", {}).parts}
    assert found["first"].status == "measured"
    assert (found["second"].status, found["second"].result) == ("cut off", {"figure": 7})
    assert ("killed" in found["second"].reason) == (number == signal.SIGKILL)
    assert found["third"].status == "not reached"
    assert bool(list(tmp_path.glob("*.part.json"))) == (number == signal.SIGKILL), "kept where it is not in the record"
    # What it had started is gone with it, in whatever session.
    for pid in pids.read_text().rstrip(".").split():
        end = time.monotonic() + 60
        while alive(int(pid)):
            assert time.monotonic() < end
            time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_part_may_have_what_others_cannot_use(tmp_path: Path) -> None:
    told: list[str] = []
    absent = Part("absent", "absent", (), 500.0, missing="there is no GPU")
    parts = [python(WRITE, "first", limit_s=10.0), absent, python(WRITE, "last", limit_s=30.0)]
    run_suite(record(), parts, Budget(100.0, lambda: 0.0), tmp_path / "record.json", told.append)
    assert [line for line in told if "at most" in line] == ["first (at most 70 s)", "last (at most 100 s)"]


def test_a_record_tells_nobodys_folders(tmp_path: Path) -> None:
    part = python(f"{WRITE.replace('7', 'str(answer)')}; print('in', answer); sys.exit(1)")
    path = tmp_path / "record.json"
    places = {str(tmp_path): "DIR", sys.executable: "python", str(tmp_path.parent): "PARENT"}
    run_suite(record(), [part], Budget(time.monotonic() + 60), path, lambda text: None, places=places)
    assert str(tmp_path) not in path.read_text()
    assert str(tmp_path.parent) not in path.read_text()
    (found,) = read_record(path).parts
    assert found.command.startswith("python -c")
    assert found.log.strip() == "in DIR/part.part.json"
    assert found.result == {"figure": "DIR/part.part.json"}
    found_here = places_of(tmp_path, Path("/images"))
    assert {found_here[str(tmp_path)], found_here["/images"], found_here[str(ROOT)]} == {"DIR", "DATA", "CHECKOUT"}


def test_an_earlier_record_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert put_aside(path, {}) is None
    for number in (1, 2):
        write_record(path, record(f"machine{number}"))
        assert put_aside(path, {}) == tmp_path / f"record-{number}.json"
    path.write_text("no record")
    assert put_aside(path, {}) == tmp_path / "record-3.json"
    assert [read_record(tmp_path / f"record-{number}.json").machine for number in (1, 2)] == ["machine1", "machine2"]
    assert (tmp_path / "record-3.json").read_text() == "no record"


def test_the_command_reports_what_a_killed_suite_left(tmp_path: Path) -> None:
    killed = with_ladder(9800.0, 10.0)
    killed.parts[0] = replace(killed.parts[0], status="cut off", reason="the suite was killed", result=None)
    write_record(tmp_path / "record.json", killed)
    result = with_ladder(9800.0, 10.0).result("ladder_32")
    (tmp_path / "ladder_32.part.json").write_text(json.dumps(result))
    command = [sys.executable, "-m", "benchmarks.gpu_suite", "--out", str(tmp_path), "--report"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = (tmp_path / "report.md").read_text()
    assert "| trainer | 9,800.0 |" in text
    assert "- the ladder: cut off, the suite was killed" in text
    assert "- ladder_32, rung compile: failed" in text
    assert "- ladder_32, rung dali: not reached" in text
    assert read_record(tmp_path / "record.json").result("ladder_32") == result
    (tmp_path / "record.json").write_text("{")
    refused = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "is not a benchmark record" in refused.stderr


def test_a_result_that_no_section_understands_costs_that_section_alone(tmp_path: Path) -> None:
    odd = with_ladder(9800.0, 10.0)
    odd.parts.append(PartResult("kernels", "the kernels", "measured", result={"summary": [{"of": "another layout"}]}))
    odd.parts.append(PartResult("scaling", "scaling", "measured", result={"measured": [1]}))
    text = write_report([odd], tmp_path).read_text()
    assert "The section on kernels cannot be shown: KeyError: 'config'" in text
    assert "The section on scaling cannot be shown: TypeError" in text
    assert "| trainer | 9,800.0 |" in text


def test_a_training_is_shown_with_its_time_and_cost(tmp_path: Path) -> None:
    one = record()
    metrics = [
        {"images_seen": 100, "loss": 0.5, "images_per_second": 9.0, "seconds": 11.0, "gpu_hours": 0.003},
        {"images_seen": 200, "knn-dino/z": 0.4321, "knn-dino/pooled": 0.5, "seconds": 22.4},
    ]
    result = {
        "config": "c.yaml",
        "overrides": ["a=1"],
        "metrics": metrics,
        "training_seconds": 23.0,
        "evaluation": None,
    }
    one.parts.append(PartResult("training", "training", "measured", result=result))
    text = write_report([one], tmp_path).read_text()
    assert "c.yaml with a=1: 200 images in 23 s with start-up. Cost: 0.0030 GPU hours, energy not counted" in text
    assert "| 200 | 22 | 43.2 | 50.0 |" in text
    metrics[0]["energy_kwh"] = 0.25
    assert "0.250 kWh (NVML)" in write_report([one], tmp_path).read_text()


def test_on_another_gpu_nothing_is_judged(tmp_path: Path) -> None:
    note = "Targets speak of an H200: nothing is judged by them on this GPU, NVIDIA {}."
    assert note.format("H100") in write_report([record("H100")], tmp_path).read_text()
    assert "Targets speak" not in write_report([record("H200")], tmp_path).read_text()
    assert "Targets speak" not in write_report([replace(record("H100"), device="cpu")], tmp_path).read_text()


def test_the_kernels_are_shown_with_what_was_measured_of_them(tmp_path: Path) -> None:
    one = record("H200")
    summary = {"config": "cifar10", "batch": 512, "layout": "channels_last", "triton_coverage": 1.0}
    summary |= {"compiled_coverage": 0.625, "triton_forward_share": 0.875, "times_compiled": 1.25}
    failed = {"config": "cifar10", "shape": "4x4", "batch": 512, "layout": "contiguous", "provider": "eager"}
    result = {"summary": [summary], "failed": [{**failed, "error": "OutOfMemoryError: no memory"}]}
    one.parts.append(PartResult("kernels", "kernels", "cut off", result=result))
    text = write_report([one], tmp_path).read_text()
    assert "| cifar10 | 512 | channels_last | 100.0 % | 62.5 % | 0.88 | 1.25 |" in text
    assert "- failed: cifar10, 4x4 batch 512 contiguous, eager: OutOfMemoryError: no memory" in text
    assert "forward and backward, times compiled PyTorch: target 1.3, reached 1.25, MISSED" in text


def test_what_no_gpu_has_measured_is_listed() -> None:
    titles = [part.title for part in all_parts(Options(True, None, ROOT))]
    assert unmeasured([]) == ["## Not yet measured on any GPU", "", *(f"- {title}" for title in titles), ""]
    some = with_ladder(9800.0, 10.0)
    missing = [f"- {part.title}" for part in all_parts(Options(True, None, ROOT)) if part.name != "ladder_32"]
    assert [line for line in unmeasured([some]) if line.startswith("- ")] == missing
    assert unmeasured([with_ladder(1.0, 0.1, small=True)]) == unmeasured([])


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
        "host_s": 0.0125,
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


def test_a_figure_whose_spread_reaches_down_to_nothing_is_compared_too() -> None:
    (found,) = compare(measurements(with_ladder(100.0, 120.0)), measurements(with_ladder(300.0, 2.0)))
    assert (found.value, found.upper, found.verdict) == (3.0, math.inf, "better")
    (found,) = compare(measurements(with_ladder(100.0, 120.0)), measurements(with_ladder(200.0, 2.0)))
    assert found.verdict == ""


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
    assert (
        "| step, ms | host, ms | data, ms | forward, ms | backward, ms | optimizer, ms | ema, ms | other, ms |" in text
    )
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
    # And this would not be so if either were another.
    edited = text.replace(START, f"{START}\n- NVIDIA H200: 12,345 images/s", 1)
    assert put_into_readme(edited, ledger()) != edited
    assert put_into_readme(text, [*ledger(), with_ladder(9800.0, 10.0)]) != text


def test_the_results_say_what_the_ledger_says(tmp_path: Path) -> None:
    records = ledger()
    shown = write_report(records, tmp_path, pictures=False, last=unmeasured(records)).read_text()
    written = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    pictures = [line for line in written.splitlines() if line.startswith("![")]
    assert all((ROOT / "benchmarks" / line.partition("](")[2].rstrip(")")).is_file() for line in pictures)
    assert without_pictures(written) == without_pictures(shown), "run python -m benchmarks.report"


def without_pictures(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("![")]
