"""What the suite does first, and the tests that it runs."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import PATIENCE_S

from benchmarks import sections
from benchmarks.record import PartResult, Record
from benchmarks.suite import process, tests
from benchmarks.suite.parts import Options, all_parts
from benchmarks.suite.tests import FIRST, FOLDERS, LAST_FOLDERS, files_with_gpu_tests, run_tests

ROOT = Path(__file__).parents[2]
LIMIT_S = 2.0
"""Of the file that hangs; the other may take as long as it needs."""


def test_what_proves_correctness_comes_first_and_what_compiles_before_what_finds_it_compiled() -> None:
    names = [part.name for part in all_parts(Options(True, None, ROOT))]
    assert names[:5] == ["environment", "tests", "profile", "ladder_32", "kernels"]


def test_gpu_tests_come_in_the_order_of_what_they_tell() -> None:
    files = [str(path.relative_to(ROOT / "tests")) for path in files_with_gpu_tests(ROOT / "tests")]
    assert set(FIRST) <= set(files), "a file that was renamed"
    assert files[: len(FIRST)] == list(FIRST)
    folders = list(dict.fromkeys(file.partition("/")[0] for file in files))
    assert folders == [*FOLDERS, *LAST_FOLDERS]


def test_a_file_of_tests_that_hangs_costs_its_own_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "import pytest, time\npytestmark = pytest.mark.gpu\n"
    hangs, fails = tmp_path / "test_hangs.py", tmp_path / "test_fails.py"
    hangs.write_text(f"{head}def test_it(): time.sleep(600)\n")
    fails.write_text(f"{head}def test_it(): pass\ndef test_other(): assert not 'good'\n")
    answer = tmp_path / "answer.json"

    def run(command: Sequence[str], limit_s: float, log: Path) -> process.Ended:
        return process.run(command, limit_s if command[-1] == str(hangs) else PATIENCE_S, log)

    monkeypatch.setattr(tests, "run", run)
    found = run_tests([hangs, fails], answer, limit_s=LIMIT_S)
    assert json.loads(answer.read_text()) == found
    assert found["cut_off"] == {"test_hangs.py": f"did not end within {LIMIT_S:.0f} s"}
    assert (found["passed"], found["failed"], found["exit_status"]) == (1, 1, 1)
    record = Record("2026-01-02T03:04:05+00:00", "test", "cuda", False, "", 9.0, {"device": "test"})
    record.parts.append(PartResult("tests", "tests", "failed", result=found))
    text = "\n".join(sections.tests(record))
    assert "- cut off: test_hangs.py: did not end within" in text
    assert "test_fails::test_other: AssertionError" in text
