"""Climb the ladder: a process for each rung, results written as they come."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.json_file import write_json
from benchmarks.ladder.child import Request
from benchmarks.ladder.rungs import LAST_RUNG, RUNGS, Rung
from benchmarks.ladder.targets import judge
from benchmarks.suite import process
from soda_fast.config import Config, load_config
from soda_fast.flops import count_flops

SMALLEST_BATCH = 8


@dataclass(frozen=True)
class Plan:
    """What to climb.

    request: for every rung; its `rung` is filled in. rungs: which. limit_s: the longest that a rung's process may take,
    start and compilation included. json: file to write after every rung; None: none.
    """

    request: Request
    rungs: tuple[Rung, ...] = RUNGS
    limit_s: float = 300.0
    json: Path | None = None


def climb(plan: Plan, report: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """All results, the rungs in the order of the ladder; `report` gets every row as soon as it is known, those first
    that the targets speak of. A rung that fails or takes too long is a row that says so.

    Raises:
        ValueError: the configuration is wrong.
    """
    config = load_config(plan.request.config, plan.request.overrides)
    if config.data.targets_per_source > 1:
        raise ValueError(
            f"data.targets_per_source is {config.data.targets_per_source}, but the reference, which the rungs begin "
            "with, has one target for a source; set it to 1"
        )
    gflop = count_flops(config).forward_backward / 1e9
    result = {
        "config": plan.request.config,
        "overrides": plan.request.overrides,
        "loader": "real" if plan.request.real_loader else "synthetic",
        "seconds_per_rung": plan.request.seconds,
        "gflop_per_image": gflop,
        "mfu_counts": "convolutions, linear layers and attention of the model as built, 2 per multiply-add",
        **ask(plan.request, plan.limit_s),
        "rungs": [],
        "targets": [],
    }
    result.pop("status")
    rows: list[dict[str, Any]] = result["rungs"]
    order = [rung.name for rung in plan.rungs]
    for rung in by_value(plan.rungs):
        row = {"name": rung.name, "changes": rung.changes, **_measured(plan, rung, config)}
        if row["status"] == "measured":
            _derive(row, gflop, result.get("ceiling"), rows)
        rows.append(row)
        rows.sort(key=lambda one: order.index(one["name"]))
        result["targets"] = judge(result, config)
        if plan.json:
            write_json(plan.json, result)
        report(row)
    return result


def by_value(rungs: Sequence[Rung]) -> list[Rung]:
    """The order of measuring: those that the targets speak of come first, should time run out; the rest from below."""
    first = ("published", "repaired", LAST_RUNG)
    return sorted(rungs, key=lambda rung: first.index(rung.name) if rung.name in first else len(first))


def _measured(plan: Plan, rung: Rung, config: Config) -> dict[str, Any]:
    """A rung at the configuration's batch, or at the largest half of it that fits, which is said."""
    batch = config.train.global_batch_images
    found = ask(replace(plan.request, rung=rung.name), plan.limit_s)
    while found["status"] == "out of memory" and batch // 2 >= SMALLEST_BATCH and batch % 2 == 0:
        batch //= 2
        found = ask(replace(plan.request, rung=rung.name, batch=batch), plan.limit_s)
        found.setdefault("notes", []).append(f"batch {batch}: {2 * batch} did not fit into memory")
    return found


def ask(request: Request, limit_s: float) -> dict[str, Any]:
    """The answer of a process to a request; `status` says "measured", "failed", "out of memory" or "out of time"."""
    ended, answer = process.ask([sys.executable, "-m", "benchmarks.ladder.child"], asdict(request), limit_s)
    if answer is not None:
        return answer
    if ended.code is None:
        return {"status": "out of time", "error": f"did not end within {limit_s:.0f} s"}
    return {"status": "failed", "error": f"{process.last_line(ended.log)} (exit status {ended.code})"}


def _derive(
    row: dict[str, Any], gflop: float, ceiling: dict[str, Any] | None, earlier: Iterable[dict[str, Any]]
) -> None:
    """What follows from the measurement: arithmetic and ratios."""
    rate = row["images_per_second"]["median"]
    row["tflop_per_second"] = rate * gflop / 1e3
    for name, peak in (("mfu_measured", "measured_tflops"), ("mfu_data_sheet", "data_sheet_tflops")):
        row[name] = row["tflop_per_second"] / ceiling[peak] if ceiling and ceiling[peak] else None
    for name in ("published", "repaired"):
        base = next((other for other in (*earlier, row) if other["name"] == name), None)
        measured = base is not None and base["status"] == "measured"
        row[f"times_{name}"] = rate / base["images_per_second"]["median"] if base and measured else None
