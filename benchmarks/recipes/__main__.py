"""Run a study: python -m benchmarks.recipes STUDY.yaml [key=value ...] [--out DIR] [--runs DIR] [--jobs N]

Every run is an ordinary `soda-fast train` with overrides; accuracies are those of `evaluation.during`, on training
images held out, so that the test split is not read. The same command goes on where it was interrupted, and does nothing
again. What comes of it is written as it comes: curves.jsonl (the metrics of each run), table.md, accuracy.png.
"""

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.recipes import picture
from benchmarks.recipes.budget import images_within, measured_rate
from benchmarks.recipes.cell import Cell, Outcome, run_cell, write_outcomes
from benchmarks.recipes.results import table
from benchmarks.recipes.study import Arm, Study, arms_of, as_arguments, config_path, configuration, read_study
from benchmarks.recipes.trainings import Trainings
from soda_fast.config import Config
from soda_fast.cores import whole_cores
from soda_fast.files import write_atomically
from soda_fast.flops import count_flops


def run_study(file: Path, more: Sequence[str], out: Path, runs: Path, jobs: int) -> int:
    """Run what is missing, seed by seed, so that every arm has some result early; returns an exit status."""
    study = read_study(file)
    arms = arms_of(study)
    configs = {arm.name: configuration(study, arm, file, more) for arm in arms}
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, out / "study.yaml")
    flops = {name: float(count_flops(config).forward_backward) for name, config in configs.items()}
    threads = max(1, whole_cores() // jobs)
    trainings = Trainings()
    images = {arm.name: arm_images(study, arm, configs[arm.name], file, more, runs, threads, trainings) for arm in arms}
    cells = [_cell(study, arm, seed, file, more, runs, images[arm.name]) for seed in study.seeds for arm in arms]
    outcomes: list[Outcome] = []
    order = {(cell.arm.name, cell.seed): number for number, cell in enumerate(cells)}

    def record(outcome: Outcome) -> None:
        outcomes.append(outcome)
        _say(outcome, len(outcomes), len(cells))
        outcomes.sort(key=lambda one: order[one.arm, one.seed])
        _write(study, outcomes, [arm.name for arm in arms], flops, out)

    _run_all(cells, jobs, threads, trainings, record)
    return 1 if any(outcome.problem for outcome in outcomes) else 0


def _run_all(
    cells: Sequence[Cell], jobs: int, threads: int, trainings: Trainings, record: Callable[[Outcome], None]
) -> None:
    """Run cells, `jobs` at a time, and record each that has ended. If that is broken off, trainings end too."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(run_cell, cell, threads, trainings) for cell in cells]):
                record(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trainings.end()
            raise


def arm_images(
    study: Study,
    arm: Arm,
    config: Config,
    file: Path,
    more: Sequence[str],
    runs: Path,
    threads: int,
    trainings: Trainings,
) -> dict[str, int]:
    """How far the arm is trained. A measured rate is kept, so that a study that goes on keeps its lengths."""
    kept = runs / arm.folder / "images"
    if study.budget.minutes is not None and kept.is_file():
        return {"train.images": int(kept.read_text())}

    def rate() -> float:
        cell = _cell(study, arm, study.seeds[0], file, more, runs, {})
        return measured_rate(cell, config.train.global_batch_images, threads, trainings)

    images = images_within(study.budget, config, rate)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, str(images).encode())
    return {"train.images": images}


def _cell(
    study: Study, arm: Arm, seed: int, file: Path, more: Sequence[str], runs: Path, length: dict[str, int]
) -> Cell:
    run = runs / arm.folder / f"seed-{seed}"
    mine = as_arguments({**length, "run.seed": seed, "run.dir": str(run)})
    return Cell(arm, seed, run, config_path(study, file), (*study.overrides, *arm.overrides, *more, *mine))


def _say(outcome: Outcome, done: int, of: int) -> None:
    ended = outcome.problem or f"{outcome.wall_seconds / 60:.1f} min"
    print(f"{done}/{of} {outcome.arm}, seed {outcome.seed}: {ended}", flush=True)


def _write(study: Study, outcomes: Sequence[Outcome], arms: list[str], flops: dict[str, float], out: Path) -> None:
    write_outcomes(out / "curves.jsonl", outcomes)
    text = f"{study.question}\n\n{table(outcomes, arms, flops)}"
    write_atomically(out / "table.md", text.encode())
    picture.draw(outcomes, arms, flops, out / "accuracy.png")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recipes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all arms, after their own")
    parser.add_argument("--out", type=Path, help="results (default: benchmarks/results/studies/STUDY)")
    parser.add_argument("--runs", type=Path, help="run directories (default: runs/studies/STUDY)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)")
    options = parser.parse_intermixed_args()
    out = options.out or Path("benchmarks/results/studies") / options.study.stem
    runs = (options.runs or Path("runs/studies") / options.study.stem).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.jobs < 1:
            raise ValueError(f"--jobs is {options.jobs}; give at least 1")
        return run_study(options.study, options.overrides, out, runs, options.jobs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: the study was told to end, and its trainings with it; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
