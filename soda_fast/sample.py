"""`soda-fast sample`: pictures from a run's averaged model, by all processes together."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soda_fast.config import Config
from soda_fast.data import load_dataset
from soda_fast.data.unreadable import tell_replaced
from soda_fast.diffusion import Guidance
from soda_fast.encoding import frozen
from soda_fast.parallel import start_processes
from soda_fast.pretrained import load_run, newest_checkpoint
from soda_fast.run_directory import RunDirectory
from soda_fast.sampling import with_sampling
from soda_fast.synthesis.grid import save_png
from soda_fast.synthesis.picture import draw
from soda_fast.synthesis.studio import Studio
from soda_fast.synthesis.tasks import TASKS
from soda_fast.training.checkpoint_files import read_manifest


def sample(
    run: RunDirectory,
    task: str,
    images: int | None,
    steps: int | None,
    guidance: Guidance | None,
    seed: int,
    overrides: Sequence[str] = (),
    ema_length: float | None = None,
) -> None:
    """Write samples/TASK-IMAGESSEEN.png from test images (train images where there is no test split).

    Args:
        task: of `TASKS`.
        images: made images in a row; steps, guidance: of the solver; None: the run's `sampling` section.
        seed: of the choice of images, their views and the noise.
        overrides: `section.key=value` over the run's configuration.
        ema_length: sigma_rel of the average to make the pictures with, which the file's name and the title then tell;
            None: that of `train.ema_beta`.

    Raises:
        ValueError: no run, no whole checkpoint, a setting out of range, a task that this model cannot do, an average
            that cannot be made, or a picture that cannot be written.
    """
    options = {"images": images, "steps": steps, "guidance": guidance}
    config = _with_options(run.load_config(overrides), options, seed)
    dataset = load_dataset(config.data)
    with start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes:
        checkpoint = processes.on_main(lambda: newest_checkpoint(run))
        images_seen = read_manifest(checkpoint)["images_seen"]
        model, *_ = load_run(run, overrides, ema_length, checkpoint)
        average = "" if ema_length is None else f"-ema-{ema_length}"
        path = run.samples / f"{task}-{images_seen:012d}{average}.png"
        processes.on_main(lambda: _require_writable(path))
        studio = Studio(frozen(model, processes.device), dataset, config, processes)
        picture = TASKS[task](studio)

        def write() -> None:
            save_png(path, draw(picture, _title(task, config, images_seen, ema_length)))
            print(f"wrote {path}")
            if studio.replaced:
                print(tell_replaced("train" if dataset.test is None else "test", len(studio.replaced)))

        processes.on_main(write)


def _with_options(config: Config, options: Mapping[str, Any], seed: int) -> Config:
    """The configuration with the command line's options; mistakes are told with their names."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return with_sampling(config, given, seed)
    except ValueError as error:
        # The configuration was whole before, so one of these is wrong; the error says which key it stands for.
        written = " ".join(f"--{name} {_written(value)}" for name, value in {**given, "seed": seed}.items())
        raise ValueError(f"{written}: {error}") from error


def _written(value: Any) -> str:
    """An option's value as it stands on the command line."""
    return ",".join(f"{weight:g}" for weight in value) if isinstance(value, tuple) else str(value)


def _require_writable(path: Path) -> None:
    """Make the picture's folder. Told before the picture is made: of many images that takes long."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path.parent}: cannot be made ({error.strerror}); the picture goes there: make room for a folder"
        ) from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written; make {path.parent} a folder that you may write to")


def _title(task: str, config: Config, images_seen: int, ema_length: float | None = None) -> str:
    """Task and settings in a line."""
    sampling = config.sampling
    weights = sampling.guidance if isinstance(sampling.guidance, tuple) else (sampling.guidance,)
    guidance = "" if task == "unconditional" else f", guidance {', '.join(f'{w:g}' for w in weights)}"
    eta = f", eta {sampling.eta:g}" if sampling.eta else ""
    average = "" if ema_length is None else f"EMA length {ema_length:g}, "
    return (
        f"{task}: {images_seen:,} images seen, {average}{sampling.solver} with {sampling.steps} steps{eta}{guidance}, "
        f"seed {config.run.seed}"
    )
