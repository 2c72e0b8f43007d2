"""A trace of a training's steady steps, as a result.

    python -m benchmarks.suite.profile --config FILE --folder DIR --json FILE

An ordinary training of a few steps with `profile.steps`, on scanned digits, which are always there. The trace stays in
DIR, for Perfetto; the result holds its summary.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.json_file import write_json
from soda_fast.config import load_config

FIRST, LAST = 10, 13
"""Of the traced steps: compilation and cuDNN's choices are over."""
TRACE = "train_step.pt.trace.json.gz"


def profile(config: str, overrides: list[str], folder: Path, answer: Path) -> int:
    """Write the result, and the trace into `folder`; returns the training's exit status."""
    keys = [*overrides, "data.dataset=digits", f"profile.steps=[{FIRST},{LAST}]", "evaluation.during=none"]
    batch = load_config(config, overrides).train.global_batch_images
    keys += [f"train.images={(LAST + 2) * batch}", "train.epochs=null", "train.warmup_epochs=null"]
    keys += ["sampling.images=1", "sampling.steps=1", f"train.log_every_images={batch * (LAST + 2)}"]
    with tempfile.TemporaryDirectory() as parent:
        run = Path(parent) / "run"
        command = [sys.executable, "-m", "soda_fast", "train", config, f"run.dir={run}", *keys]
        code = subprocess.run(command, check=False).returncode
        summary = run / "profile" / "summary.json"
        if summary.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for trace in run.glob("profile/*/rank0.pt.trace.json.gz"):
                shutil.copyfile(trace, folder / TRACE)
            result = {
                "config": config,
                "overrides": keys,
                "trace": TRACE,
                "summary": json.loads(summary.read_text()),
                "summary_text": summary.with_suffix(".txt").read_text().replace(str(run), "RUN"),
            }
            write_json(answer, result)
    return code


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.profile", description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--folder", type=Path, required=True, help="for the trace")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_intermixed_args()
    return profile(options.config, options.overrides, options.folder, options.json)


if __name__ == "__main__":
    sys.exit(main())
