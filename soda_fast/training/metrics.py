"""What a run reports: metrics.jsonl, TensorBoard, the terminal. The main process writes; all learn of its errors."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from soda_fast.files import write_atomically
from soda_fast.parallel import Processes
from soda_fast.training.accounting import COUNTED
from soda_fast.training.lines import PatientLines


def forget_after(path: Path, images_seen: int) -> int:
    """Drop the lines of metrics.jsonl that a resumed run is about to write again, and damaged ones.

    Returns:
        The number of damaged lines, a half-written last one among them.
    """
    if not path.exists():
        return 0
    lines = [(line, _images_seen(line)) for line in path.read_bytes().split(b"\n") if line]
    kept = [line for line, seen in lines if seen is not None and seen <= images_seen]
    write_atomically(path, b"".join(line + b"\n" for line in kept))
    return sum(seen is None for _, seen in lines)


def _images_seen(line: bytes) -> int | None:
    """Of a line; None if it is damaged."""
    try:
        seen = json.loads(line)["images_seen"]
    except (ValueError, KeyError, TypeError):
        return None
    return seen if isinstance(seen, int) else None


def _quiet_about_disks(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread ends at an error of the disk, which the next value raises again: no traceback."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _mfu_text(values: dict[str, float]) -> str:
    """Empty where MFU is not defined."""
    return f"MFU {100 * values['mfu']:.1f} % ({COUNTED})  " if "mfu" in values else ""


class Metrics:
    """Writers of one run, as a context manager after `start`. On other processes than the main one, silent.

    `start`, `log` and `write` are collectives: an error of the main process that is not tolerated is raised on all.

    Args:
        directory: the run's.
        total_images: where the run ends.
        processes: of the run.
    """

    def __init__(self, directory: Path, total_images: int, processes: Processes) -> None:
        self.directory, self.total_images, self._processes = directory, total_images, processes
        self.is_main = processes.is_main
        self.logged_images = 0
        self._complained: set[str] = set()

    def start(self, images_seen: int) -> None:
        """Open the writers of a run that stands at images_seen; later lines of an earlier attempt are dropped."""
        self.logged_images = images_seen
        self._interactive = sys.stderr.isatty() and self.is_main
        self._bar = tqdm(
            total=self.total_images, initial=images_seen, unit="img", unit_scale=True, disable=not self._interactive
        )
        self._processes.on_main(lambda: self._open(images_seen))

    def _open(self, images_seen: int) -> None:
        damaged = forget_after(self.directory / "metrics.jsonl", images_seen)
        if damaged:
            self.warn(f"{damaged} damaged lines of {self.directory / 'metrics.jsonl'} are left out")
        self._lines = PatientLines(self.directory / "metrics.jsonl")
        threading.excepthook = _quiet_about_disks
        self._tensorboard = SummaryWriter(str(self.directory / "tensorboard"), purge_step=images_seen + 1)

    def advance(self, images: int) -> None:
        """Move the progress bar, which shows images/s and the time left."""
        self._bar.update(images)

    def log(self, images_seen: int, values: dict[str, float]) -> None:
        """Training's own values: written, and shown beside the bar; without a terminal, as a line."""
        self.logged_images = images_seen
        self.write(images_seen, values)
        if self._interactive and "loss" in values:
            self._bar.set_postfix(loss=f"{values['loss']:.4f}")
        else:
            pace = values["images_per_second"]
            minutes = (self.total_images - images_seen) / pace / 60
            loss = f"{values['loss']:.4f}" if "loss" in values else "of no step"
            self.say(
                f"{images_seen:,} of {self.total_images:,} images  loss {loss}  {pace:,.0f} images/s  "
                f"{_mfu_text(values)}{minutes:,.1f} min left"
            )

    def write(self, images_seen: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and a TensorBoard scalar for each value. A full disk is a warning, no more."""
        self._processes.on_main(lambda: self._write(images_seen, values))

    def _write(self, images_seen: int, values: dict[str, float]) -> None:
        with self.tolerating("metrics.jsonl"):
            self._lines.write(json.dumps({"images_seen": images_seen, **values}))
        with self.tolerating("tensorboard/"):
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, images_seen)

    @contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """Training does not end because something beside it cannot be written; says so once for each `what`."""
        try:
            yield
        except OSError as error:
            if what not in self._complained:
                self._complained.add(what)
                self.warn(f"{what} could not be written ({error.strerror or error}); training goes on without it")

    def warn(self, text: str) -> None:
        """A warning on the terminal."""
        self.say(f"warning: {text}")

    def image(self, images_seen: int, name: str, picture: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 in TensorBoard; for the main process only."""
        self._tensorboard.add_image(name, picture, images_seen, dataformats="HWC")

    def say(self, text: str) -> None:
        """A line on the terminal, without tearing the progress bar."""
        if self.is_main:
            # A terminal that is gone, or output into a file on a full disk, does not end the training either.
            with suppress(OSError):
                tqdm.write(text, file=sys.stdout)
                sys.stdout.flush()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        if self.is_main:
            with self.tolerating("metrics.jsonl"):
                self._lines.close()
            if self._lines.waiting:
                self.warn(f"the last {self._lines.waiting} lines of metrics.jsonl could not be written and are lost")
            with self.tolerating("tensorboard/"):
                self._tensorboard.close()
