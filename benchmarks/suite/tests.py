"""The tests that need a GPU, as a result: python -m benchmarks.suite.tests --json FILE

Each file in a process of its own, so that what breaks a GPU's context breaks one file; first those that tell most for
their time.
"""

import argparse
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.json_file import write_json
from benchmarks.suite.process import run

NO_TESTS = 5
"""pytest's exit status where none was chosen."""
FILE_LIMIT_S = 120.0
"""The longest that a file may take, compilations included."""
FIRST = ("training/test_layout.py", "training/test_no_synchronisation.py", "training/test_devices.py")
FOLDERS = ("training", "data", "kernels")
"""First what training rests on."""
LAST_FOLDERS = ("memory", "benchmarks")
"""After all others: what takes long, and tells of figures."""


def files_with_gpu_tests(folder: Path) -> list[Path]:
    """Those of `folder`, in the order in which they are worth running."""
    found = [path for path in folder.rglob("test_*.py") if "mark.gpu" in path.read_text()]
    return sorted(found, key=lambda path: _rank(path.relative_to(folder)))


def _rank(path: Path) -> tuple[int, int, str]:
    """Of a file, by its place below the tests' folder."""
    name, folder = path.as_posix(), path.parts[0]
    order = (*FOLDERS, None, *LAST_FOLDERS)
    return order.index(folder if folder in order else None), FIRST.index(name) if name in FIRST else len(FIRST), name


def run_tests(files: Sequence[Path], answer: Path, limit_s: float = FILE_LIMIT_S) -> dict[str, Any]:
    """How many passed, failed and were skipped, the first line of each failure, and which files took longer than
    `limit_s` seconds, of whose tests nothing is known; written after each file."""
    result: dict[str, Any] = {"exit_status": 0, "passed": 0, "skipped": 0, "failed": 0}
    result |= {"failures": {}, "seconds": {}, "cut_off": {}}
    for file in files:
        _run_file(file, result, limit_s)
        write_json(answer, result)
    return result


def _run_file(file: Path, result: dict[str, Any], limit_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "tests.xml", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report}"]
        ended = run([*command, str(file)], limit_s, log)
        print(log.read_text(errors="replace"), flush=True)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    if ended.code is None:
        result["cut_off"][file.name] = f"did not end within {limit_s:.0f} s"
    if ended.code not in (0, NO_TESTS):
        result["exit_status"] = 1 if ended.code is None else ended.code
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        problems = [*case.findall("failure"), *case.findall("error")]
        result["seconds"][name] = float(case.get("time", 0))
        if problems:
            result["failed"] += 1
            result["failures"][name] = problems[0].get("message", "").splitlines()[:1]
        else:
            result["passed" if case.find("skipped") is None else "skipped"] += 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.tests", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    files = files_with_gpu_tests(Path(__file__).parents[2] / "tests")
    return int(run_tests(files, options.json)["exit_status"] != 0)


if __name__ == "__main__":
    sys.exit(main())
