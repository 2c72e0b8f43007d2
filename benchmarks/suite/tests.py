"""The tests that need a GPU, as a result: python -m benchmarks.suite.tests --json FILE [PATH ...]"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any


def run_tests(paths: list[str]) -> dict[str, Any]:
    """How many passed, failed and were skipped, and the first line of each failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report}"]
        code = subprocess.run([*command, *paths], check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failures = {
        f"{case.get('classname')}::{case.get('name')}": (problem.get("message") or "").splitlines()[:1]
        for case in cases
        for problem in (*case.findall("failure"), *case.findall("error"))
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "kind": "tests",
        "version": 1,
        "exit_status": code,
        "passed": len(cases) - len(failures) - skipped,
        "skipped": skipped,
        "failed": len(failures),
        "failures": failures,
        "seconds": {f"{case.get('classname')}::{case.get('name')}": float(case.get("time") or 0) for case in cases},
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.tests", description=__doc__)
    parser.add_argument("paths", nargs="*", default=["tests"])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    result = run_tests(options.paths)
    options.json.write_text(json.dumps(result, indent=1))
    return 0 if result["exit_status"] in (0, 5) else 1  # 5: no test was chosen


if __name__ == "__main__":
    sys.exit(main())
