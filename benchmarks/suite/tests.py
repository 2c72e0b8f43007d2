"""The tests that need a GPU, as a result: python -m benchmarks.suite.tests --json FILE"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.json_file import write_json

NO_TESTS = 5
"""pytest's exit status where none was chosen."""


def files_with_gpu_tests(folder: Path) -> list[Path]:
    """The kernels' first."""
    found = [path for path in folder.rglob("test_*.py") if "mark.gpu" in path.read_text()]
    return sorted(found, key=lambda path: ("kernels" not in path.parts, path))


def run_tests(files: Sequence[Path], answer: Path) -> dict[str, Any]:
    """How many passed, failed and were skipped, and the first line of each failure; written after each file."""
    result: dict[str, Any] = {"kind": "tests", "version": 1, "exit_status": 0, "passed": 0, "skipped": 0, "failed": 0}
    result |= {"failures": {}, "seconds": {}}
    for file in files:
        _run_file(file, result)
        write_json(answer, result)
    return result


def _run_file(file: Path, result: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report}"]
        code = subprocess.run([*command, str(file)], check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    if code not in (0, NO_TESTS):
        result["exit_status"] = code
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
