"""Pictures and probes of the averaged model while it trains."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from soda_fast.config import Config
from soda_fast.data import Dataset
from soda_fast.model import SODA
from soda_fast.parallel import Processes
from soda_fast.run_directory import RunDirectory
from soda_fast.synthesis.grid import save_png
from soda_fast.training.clock import ShareTimer
from soda_fast.training.metrics import Metrics
from soda_fast.training.probes import Probes
from soda_fast.training.samples import Samples

PICTURE = "pictures"
LARGEST_SHARE = 0.01
"""Of the time, that pictures should take."""
_WORTH_A_WORD_S = 5.0


class Inspections:
    """What is looked at, and whether it has been already. Every method is a collective.

    A step's checkpoint comes before its inspections, so a run that was stopped or killed in them resumes after them: it
    makes up for those that it finds missing.
    """

    def __init__(
        self, config: Config, dataset: Dataset, processes: Processes, run: RunDirectory, metrics: Metrics
    ) -> None:
        self._processes, self._run, self._metrics = processes, run, metrics
        self.samples = Samples(config, dataset, processes)
        self.probes = Probes(config, dataset, processes, metrics.warn)
        self.drawing, self._warned = ShareTimer(), False
        # Quick ones first.
        self._intervals = {PICTURE: config.sampling.every_images, **self.probes.schedule}

    def due(self, is_due: Callable[[int], bool]) -> list[str]:
        """Names of the inspections whose intervals are due, in order."""
        return [name for name, every_images in self._intervals.items() if is_due(every_images)]

    def missing(self, images_seen: int, names: Collection[str]) -> list[str]:
        """Those that an earlier attempt has not come to."""
        done = self._processes.on_main(lambda: set(self._done(images_seen, names)))
        return [name for name in names if name not in done]

    def run(self, name: str, images_seen: int, model: SODA, made_up: bool = False) -> None:
        """Carry one out and write what it gives.

        made_up: for an earlier attempt, before this one has trained: a picture's time is no share of anything then.
        """
        if name == PICTURE:
            self._write_picture(images_seen, model)
            if made_up:
                self.drawing = ShareTimer()
            else:
                self._tell_share(images_seen)
            return
        accuracies = self.probes.run(name, model)
        self._metrics.write(images_seen, accuracies)
        shown = ", ".join(f"{features} {100 * value:.1f} %" for features, value in accuracies.items())
        if shown:
            self._metrics.say(f"{images_seen:,} images: {shown} (train images held out of the probe)")

    def _write_picture(self, images_seen: int, model: SODA) -> None:
        with self.drawing:
            picture = self.samples.grid(model)

            def write() -> None:
                with self._metrics.tolerating("the picture"):
                    save_png(self._picture_path(images_seen), picture)
                    self._metrics.image(images_seen, "samples", picture)

            self._processes.on_main(write)

    def _tell_share(self, images_seen: int) -> None:
        share, seconds = self.drawing.share, self.drawing.seconds
        self._metrics.write(images_seen, {"samples_share": share})
        if share > LARGEST_SHARE and seconds > _WORTH_A_WORD_S and not self._warned:
            self._warned = True
            self._metrics.warn(
                f"pictures have taken {100 * share:.1f} % of the time so far ({seconds:,.0f} s); raise "
                "sampling.every_images, or lower sampling.images or sampling.steps"
            )

    def _done(self, images_seen: int, names: Collection[str]) -> Iterator[str]:
        keys = recorded_at(self._run.path / "metrics.jsonl", images_seen)
        for name in names:
            if name == PICTURE:
                done = self._picture_path(images_seen).exists()
            else:
                done = any(key.startswith(self.probes.prefix(name)) for key in keys)
            if done:
                yield name

    def _picture_path(self, images_seen: int) -> Path:
        return self._run.samples / f"{images_seen:012d}.png"


def recorded_at(metrics: Path, images_seen: int) -> set[str]:
    """What a metrics.jsonl of whole lines has values of after images_seen."""
    if not metrics.is_file():
        return set()
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {key for line in lines if line["images_seen"] == images_seen for key in line}
