"""`soda-fast sample`: pictures from a run's averaged model, by all processes together."""

from collections.abc import Sequence

from soda_fast.config import Config
from soda_fast.data import load_dataset
from soda_fast.data.unreadable import tell_replaced
from soda_fast.evaluation.reconstruction import save_png
from soda_fast.parallel import start_processes
from soda_fast.pretrained import load_run
from soda_fast.run_directory import RunDirectory
from soda_fast.sampling import with_sampling
from soda_fast.synthesis.picture import draw
from soda_fast.synthesis.studio import Studio
from soda_fast.synthesis.tasks import TASKS
from soda_fast.training.checkpoint_files import read_manifest


def sample(
    run: RunDirectory,
    task: str,
    images: int | None,
    steps: int | None,
    guidance: float | None,
    seed: int,
    overrides: Sequence[str] = (),
) -> None:
    """Write samples/TASK-IMAGESSEEN.png from test images (train images where there is no test split).

    Args:
        task: of `TASKS`.
        images: made images in a row; steps, guidance: of the solver; None: the run's `sampling` section.
        seed: of the choice of images, their views and the noise.
        overrides: `section.key=value` over the run's configuration.

    Raises:
        ValueError: no run, no whole checkpoint, a setting out of range, or a task that this model cannot do.
    """
    model, config, checkpoint = load_run(run, overrides)
    given = {"images": images, "steps": steps, "guidance": guidance}
    config = with_sampling(config, {key: value for key, value in given.items() if value is not None}, seed)
    dataset = load_dataset(config.data)
    images_seen = read_manifest(checkpoint)["images_seen"]
    with start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes:
        model = model.eval().requires_grad_(False).to(processes.device)
        studio = Studio(model, dataset, config, processes)
        picture = TASKS[task](studio)
        path = run.samples / f"{task}-{images_seen:012d}.png"

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, draw(picture, _title(task, config, images_seen)))
            print(f"wrote {path}")
            if studio.replaced:
                print(tell_replaced("train" if dataset.test is None else "test", len(studio.replaced)))

        processes.on_main(write)


def _title(task: str, config: Config, images_seen: int) -> str:
    """Task and settings in a line."""
    sampling = config.sampling
    weights = sampling.guidance if isinstance(sampling.guidance, tuple) else (sampling.guidance,)
    guidance = "" if task == "unconditional" else f", guidance {', '.join(f'{w:g}' for w in weights)}"
    eta = f", eta {sampling.eta:g}" if sampling.eta else ""
    return (
        f"{task}: {images_seen:,} images seen, {sampling.solver} with {sampling.steps} steps{eta}{guidance}, "
        f"seed {config.run.seed}"
    )
