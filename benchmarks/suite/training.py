"""A short real training and its evaluation, as a result: python -m benchmarks.suite.training --config FILE --json FILE

The run is an ordinary one, in a folder that is removed at the end. The result holds its lines of metrics, each with the
seconds from the command to its being seen (a second late at most), and, once trained, what `soda-fast evaluate` says
of its features.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.json_file import write_json
from benchmarks.recipes.cell import read_metrics

LOOK_EVERY_S = 1.0


def train_and_evaluate(config: str, overrides: list[str], answer: Path) -> int:
    """Write the result whenever the training has said something, and after the evaluation; returns an exit status."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result: dict[str, Any] = {"config": config, "overrides": overrides}
        result |= {"training_seconds": 0.0, "metrics": [], "evaluation": None}
        begin = time.monotonic()
        training = subprocess.Popen(_verb("train", config, f"run.dir={run}", *overrides))
        while training.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                training.wait(timeout=LOOK_EVERY_S)
            seconds, metrics = time.monotonic() - begin, result["metrics"]
            new = read_metrics(run)[len(metrics) :]
            metrics += [{**line, "seconds": seconds} for line in new]
            result["training_seconds"] = seconds
            if new:
                write_json(answer, result)
        if training.returncode:
            return training.returncode
        begin = time.monotonic()
        code = subprocess.run(_verb("evaluate", str(run)), check=False).returncode
        result["evaluation_seconds"] = time.monotonic() - begin
        if code == 0:
            result["evaluation"] = json.loads((run / "evaluation.json").read_text())
        write_json(answer, result)
        return code


def _verb(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "soda_fast", *arguments]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.training", description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_intermixed_args()
    return train_and_evaluate(options.config, options.overrides, options.json)


if __name__ == "__main__":
    sys.exit(main())
