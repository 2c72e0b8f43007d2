"""Steps of the configuration, tried as a user would: a training of its own, two steps long, in a passing folder."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soda_fast.config import Config
from soda_fast.data.catalog import known_train_images
from soda_fast.doctor.findings import Finding

CPU_IMAGES = 8
_GREY = "[0.5,0.5,0.5]"
_TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def try_steps(
    path: str,
    overrides: Sequence[str],
    config: Config,
    gpus: int,
    images: int | None,
    limit_s: float,
    to_be_decoded: bool = False,
) -> Finding:
    """Train two steps with the command that a user would give, and say how it went.

    Args:
        path, overrides: of the configuration.
        config: the same, loaded.
        gpus: how many are used; 0: the CPU.
        images: of a step; None: the configuration's on GPUs, at most 8 on a CPU.
        limit_s: after that many seconds it is ended.
        to_be_decoded: training will first decode all images into memory; these steps do without.
    """
    processes = max(gpus, 1)
    batch = images or (config.train.global_batch_images if gpus else min(config.train.global_batch_images, CPU_IMAGES))
    unit = processes * config.train.accumulate
    batch = max(unit, batch // unit * unit)
    with tempfile.TemporaryDirectory(prefix="soda_fast_doctor-") as folder:
        run = Path(folder) / "run"
        command = [*_launcher(processes), "train", path, *overrides, *_changes(config, run, batch)]
        start = time.monotonic()
        code, output = run_limited(command, limit_s)
        seconds = time.monotonic() - start
        lines = _metrics(run / "metrics.jsonl")
    where = f"{processes} GPUs" if gpus > 1 else "the GPU" if gpus else "the CPU"
    how = f"on {where} with {batch} images a step"
    how += ", decoded as they come and not, as training will have them, in memory" if to_be_decoded else ""
    if code is None:
        remedy = "try again with --batch 8 or a longer --limit-s"
        return Finding("wrong", "two steps", f"not done after {limit_s:.0f} s {how}", remedy)
    if code:
        return Finding("wrong", "two steps", f"failed {how}:\n{last_words(output)}")
    return Finding("ok", "two steps", _success(lines, batch, seconds, how))


def run_limited(command: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """Exit code and output of a command and all that it starts; None for the code: it was ended after limit_s."""
    environment = {name: value for name, value in os.environ.items() if name not in _TORCHRUN_VARIABLES}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, output


def last_words(output: str) -> str:
    """What a failed training said of the reason: its own sentence, or else the end of what was printed."""
    lines = [line for line in output.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("soda-fast: ")]
    return own[-1].removeprefix("soda-fast: ") if own else "\n".join(lines[-5:]) or "it said nothing"


def _launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "soda_fast"]
    # torchrun would ask for the address of the host's name, which not every machine can resolve.
    here = ["--standalone", "--local-addr", "localhost"]
    torchrun = ["torch.distributed.run", *here, f"--nproc-per-node={processes}", "-m", "soda_fast"]
    return [sys.executable, "-m", *torchrun]


def _changes(config: Config, run: Path, batch: int) -> list[str]:
    """What makes the configuration two steps long and leaves nothing behind."""
    changes = [
        f"run.dir={run}",
        "train.epochs=null",
        f"train.images={2 * batch}",
        f"train.global_batch_images={batch}",
        f"train.log_every_images={batch}",
        "train.save_every_images=0",
        "sampling.every_images=0",
        "sampling.images=1",
        "sampling.steps=1",
        "evaluation.during=none",
        "profile.steps=null",
        # Decoding every image would take as long as the set is large.
        "data.resident_mib=0",
    ]
    if config.data.backend == "batched":
        changes.append("data.backend=auto")  # which is batched where the images need no decoding
    if known_train_images(config.data.dataset) is None and config.data.mean is None:
        changes.append(f"data.mean={_GREY}")  # measuring it would read every image
    if known_train_images(config.data.dataset) is None and config.data.std is None:
        changes.append(f"data.std={_GREY}")
    return changes


def _metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _success(lines: list[dict[str, Any]], batch: int, seconds: float, how: str) -> str:
    steps = [line for line in lines if "images_per_second" in line]
    text = f"done {how}, {seconds:.0f} s with all preparations"
    if len(steps) == 2:
        first, second = (batch / line["images_per_second"] for line in steps)
        text += f": the first step {first:.1f} s, the second {second:.2f} s"
        peak = max((line.get("peak_memory_gib", 0.0) for line in steps), default=0.0)
        text += f"; {peak:.1f} GiB of GPU memory at the peak" if peak else ""
    return text
