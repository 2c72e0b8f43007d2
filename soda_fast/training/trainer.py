"""The training loop."""

from collections.abc import Iterator
from dataclasses import asdict

import torch

from soda_fast.config import Config, horizon_warning, run_length_images, snapshot_interval_images, warmup_images
from soda_fast.data import Batch, Dataset
from soda_fast.errors import Stopped
from soda_fast.evaluation import versions
from soda_fast.parallel import Processes, Vote, Watchdog
from soda_fast.run_directory import RunDirectory
from soda_fast.spans import span
from soda_fast.training.accounting import Accounting, peak_memory
from soda_fast.training.assembly import fingerprint_of, global_batch, open_loader
from soda_fast.training.checkpoint import CheckpointStore
from soda_fast.training.clock import Clock, SaveTimer
from soda_fast.training.inspections import Inspections
from soda_fast.training.metrics import Metrics
from soda_fast.training.profiler import Profiler
from soda_fast.training.replaced_images import ReplacedImages
from soda_fast.training.shared_folder import require_shared
from soda_fast.training.signals import StopRequest, exit_code, signal_name
from soda_fast.training.snapshots import AverageSnapshots
from soda_fast.training.step import TrainStep

AUTO_SAVE_S = 600.0
"""What a killed run loses at most, or little more, where train.save_every_images is auto."""
INSPECTION_SAVE_S = 60.0
"""Under auto, how old the last checkpoint may be where an inspection begins, which may take long."""


class Trainer:
    """Trains one run from where its directory says it stands. Every method is a collective.

    Args:
        config: resolved: data.mean and data.std are filled in.
        dataset: the images.
        processes: this process among the run's.
        run: an existing run directory.
        accept_changes: go on from a checkpoint although other images were trained on.

    Raises:
        ValueError: the configuration does not fit the processes.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        processes: Processes,
        run: RunDirectory,
        accept_changes: bool = False,
    ) -> None:
        self.config, self.dataset, self.processes, self.run = config, dataset, processes, run
        self.total_images = run_length_images(config, len(dataset.train))
        self.step = TrainStep(config, processes, warmup_images(config, len(dataset.train)))
        self.batch_images = self.step.batch_images
        self.unlogged_skips = 0
        images = {"count": len(dataset.train), "sha256": fingerprint_of(config, dataset)}
        self.checkpoints = CheckpointStore(
            run.checkpoints,
            processes,
            {"versions": versions(), "config": asdict(config), "images": images},
            config.train.keep_checkpoints,
            config.train.keep_every_images,
            config.train.max_failed_saves,
            accept_changes,
        )
        self.clock = Clock()
        every = config.train.save_every_images
        self.save_every_images = 0 if every == "auto" else every
        self.save_timer = SaveTimer(AUTO_SAVE_S if every == "auto" else None)
        self.metrics = Metrics(run.path, self.total_images, processes)
        self.snapshot_images = snapshot_interval_images(config, len(dataset.train))
        self.snapshots = AverageSnapshots(run.averages, self.step.power_averages, processes, self.metrics)
        self.inspections = Inspections(config, dataset, processes, run, self.metrics)
        self.replaced = ReplacedImages(
            run.path, dataset.train, config.data.unreadable_limit, processes, self.metrics.tolerating
        )
        self.watchdog = Watchdog(processes, 60 * config.parallel.timeout_minutes)
        self.vote = Vote(processes)
        self.accounting = Accounting(config, processes, self.step.bf16)
        self.profiler = Profiler(config.profile, run.path, processes, self.metrics.say, self.metrics.tolerating)

    def train(self, stop: StopRequest) -> None:
        """Train to the end; from a finished run, do nothing.

        Raises:
            Stopped: `stop` was requested on some process; there is a checkpoint of this very step, if one was made.
            NonFiniteError, SaveError: as they say.
            ValueError: the run directory cannot be used, or is another one on some process.
        """
        require_shared(self.run.path, self.processes)
        self._resume()
        with self.metrics, self.watchdog:
            self._announce()
            self._make_up(stop)
            self.save_timer.restart()
            asked_at = 0
            for parts in self._global_batches():
                self.watchdog.progress(f"the step after {self.images_seen:,} images")
                self.step(parts)
                stop.defer()
                self.profiler.end_step()
                self.metrics.advance(self.batch_images)
                if self._due(self.config.train.log_every_images):
                    self._log()
                with self.clock.paused():
                    # Before the checkpoint, after which a resumed run goes on.
                    self._write_snapshots()
                    # First what must not be lost; it is written while the rest goes on.
                    if self.save_timer.is_wanted(asked_at) or self._due(self.save_every_images):
                        self._save()
                    self._inspect(self.inspections.due(self._due), stop)
                signal, asked_at, word = self.vote.ask(stop.received, self._ask_to_save(), self.profiler.word())
                self.profiler.hear(word)
                # After the last step there is nothing left to stop.
                if signal and self.images_seen < self.total_images:
                    self._stop(signal)
            self.vote.close()
            self._save_and_wait()

    @property
    def images_seen(self) -> int:
        """Images trained on."""
        return self.step.images_seen

    def global_batch(self, images_seen: int) -> list[Batch]:
        """This process's share of the global batch that follows images_seen, in its accumulation parts."""
        return global_batch(self.config, self.dataset, self.processes, images_seen)

    def _global_batches(self) -> Iterator[list[Batch]]:
        """This process's share of each global batch to come, in its accumulation parts."""
        if self.images_seen >= self.total_images:
            return
        self.loader = loader = open_loader(self.config, self.dataset, self.processes, self.images_seen)
        try:
            while self.images_seen < self.total_images:
                with self.clock.paused():
                    self.profiler.begin_step(self.images_seen // self.batch_images)
                self.watchdog.progress("reading images")
                with self.clock.waiting_for_data(), span("data"):
                    parts = [next(loader) for _ in range(self.config.train.accumulate)]
                yield parts
            self.profiler.close()
        finally:
            loader.close()

    def _due(self, every_images: int) -> bool:
        """Whether an interval ended with the last step. The end of the run ends every interval; 0 is that alone."""
        if self.images_seen >= self.total_images:
            return True
        before = self.images_seen - self.batch_images
        return every_images > 0 and self.images_seen // every_images > before // every_images

    def _check(self) -> None:
        """Wait for the device, and learn of steps that did not count."""
        self._learn(self.step.guard.check())

    def _learn(self, skipped: int) -> None:
        if skipped:
            self.unlogged_skips += skipped
            self.metrics.warn(
                f"{skipped} of the last steps left out, whose loss or gradient was NaN or infinite "
                f"({self.step.guard.skipped} in this run; train.max_skipped_steps is {self.step.guard.allowed})"
            )

    def _log(self) -> None:
        self.watchdog.progress("logging")
        loss_sum, grad_norm, skipped, fatal = self._read_from_device()
        self._learn(self.step.guard.learn(int(skipped), int(fatal)))
        steps = (self.images_seen - self.metrics.logged_images) // self.batch_images
        counted, self.unlogged_skips = steps - self.unlogged_skips, 0
        self.step.loss_sum.zero_()
        pace = self.clock.lap(steps * self.batch_images)
        encoder, decoder = (group["lr"] for group in self.step.optimizer.param_groups)
        values = {"loss": loss_sum / counted} if counted else {}
        values |= {"grad_norm": grad_norm, "encoder_lr": encoder, "decoder_lr": decoder}
        values |= {"images_per_second": pace.images_per_second, "data_wait_share": pace.data_wait_share}
        values |= self.accounting.values(pace.images_per_second)
        if self.config.data.on_unreadable == "replace":
            values["replaced_images"] = self.replaced.report(self.loader.replaced)
        self.metrics.log(self.images_seen, values | peak_memory(self.processes))
        self._tell()

    def _read_from_device(self) -> list[float]:
        """Sum of the losses, last gradient norm, steps skipped, the fatal one: one transfer, where the host waits."""
        values = (self.processes.mean(self.step.loss_sum), self.step.grad_norm, *self.step.guard.tensors)
        return torch.stack([value.double() for value in values]).tolist()

    def _write_snapshots(self) -> None:
        if self.config.train.ema_lengths and self._due(self.snapshot_images):
            self.watchdog.progress("writing snapshots of averages")
            self.snapshots.write(self.images_seen, self.step.ema.steps)

    def _inspect(self, names: list[str], stop: StopRequest, made_up: bool = False) -> None:
        for name in names:
            # Stopped here, a run makes up for it when it goes on.
            signal, save = self.vote.ask_now(stop.received, self._is_unsaved_for(INSPECTION_SAVE_S))
            if signal:
                self._stop(signal)
            if save:
                self._save()
            self.watchdog.progress(name)
            self._check()
            self.inspections.run(name, self.images_seen, self.step.ema.model, made_up)

    def _make_up(self, stop: StopRequest) -> None:
        """A run killed after its last checkpoint was written, in what came after it: that is still due."""
        if self.images_seen:
            missing = self.inspections.missing(self.images_seen, self.inspections.due(self._due))
            self._inspect(missing, stop, made_up=True)

    def _save(self) -> None:
        self.watchdog.progress("copying the state for a checkpoint")
        self._check()
        self.checkpoints.save(self.step.progress, self.step.state)
        self.save_timer.saved(self.images_seen)
        self._tell()

    def _ask_to_save(self) -> int:
        """As `SaveTimer.ask`. The main process's clock counts. What is still being written is not waited for."""
        may_ask = self.processes.is_main and not self.checkpoints.is_writing
        return self.save_timer.ask(self.images_seen) if may_ask else 0

    def _is_unsaved_for(self, seconds: float) -> bool:
        return self.processes.is_main and self.save_timer.is_due(seconds) and not self.checkpoints.is_writing

    def _save_and_wait(self) -> None:
        self.watchdog.progress("writing a checkpoint")
        self._check()
        if self.images_seen:
            self.checkpoints.save_and_wait(self.step.progress, self.step.state)
        self._tell()

    def _stop(self, signal: int) -> None:
        """End here, resumable."""
        self._save_and_wait()
        raise Stopped(
            f"stopped by {signal_name(signal)} at {self.images_seen:,} of {self.total_images:,} images; they "
            f"are in a checkpoint in {self.run.checkpoints}, and the same command goes on from it",
            exit_code(signal),
        )

    def _tell(self) -> None:
        for notice in self.checkpoints.take_notices():
            self.metrics.warn(notice)

    def _resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        progress = self.checkpoints.load_latest(self.step.state)
        if progress is not None:
            self.step.resume(progress)
        self.snapshots.resume(self.images_seen)
        # Only now: a configuration that the checkpoint does not fit must not take the place of the one it fits.
        self.processes.on_main(lambda: self.run.write_config(self.config))
        self.metrics.start(self.images_seen)
        self.processes.on_main(lambda: self.accounting.resume(self.run.path / "metrics.jsonl"))

    def _announce(self) -> None:
        self._tell()
        if self.dataset.note:
            self.metrics.say(self.dataset.note)
        if self.accounting.notice:
            self.metrics.say(self.accounting.notice)
        warning = horizon_warning(self.config, len(self.dataset.train))
        if warning:
            self.metrics.warn(warning)
        if self.images_seen >= self.total_images:
            self.metrics.say(f"{self.run.path} is trained to its {self.total_images:,} images; nothing to do")
        elif self.images_seen:
            self.metrics.say(f"resuming {self.run.path} at {self.images_seen:,} of {self.total_images:,} images")
        else:
            self.metrics.say(f"training {self.run.path} for {self.total_images:,} images")
