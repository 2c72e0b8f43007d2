"""`soda-fast evaluate`: probes of a run's averaged encoder or of any other, the test split reported once.

With `held_out`, of images held out of the training split, and the test split stays unread: for choosing.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from soda_fast.build import build_model
from soda_fast.config import Config
from soda_fast.data import Dataset, ImageSet, load_dataset
from soda_fast.data.fingerprint import fingerprint
from soda_fast.data.unreadable import tell_replaced
from soda_fast.encoders import build_encoder, encode_module
from soda_fast.encoding import Encode, as_configured, frozen
from soda_fast.evaluation.linear_protocol import DivergedError
from soda_fast.evaluation.measurement import Measurement, format_measurements
from soda_fast.evaluation.protocols import PROTOCOLS, run_protocols
from soda_fast.evaluation.provider import CachedFeatures, Split
from soda_fast.evaluation.report import (
    HELD_OUT,
    TEST_SPLIT,
    Checkpoint,
    Subject,
    format_table,
    notes,
    table_rows,
    write_report,
)
from soda_fast.evaluation.result import Result
from soda_fast.evaluation.ssim import SSIM_SIDE
from soda_fast.measures import OF_MADE_IMAGES, MadeImages, measure
from soda_fast.model import SODA
from soda_fast.parallel import Processes, start_processes
from soda_fast.plots import check_plots, draw_plots
from soda_fast.posthoc import with_average
from soda_fast.pretrained import load_run, newest_checkpoint, usual_average
from soda_fast.probing import Prober, encode_features, encode_pixels, hold_out
from soda_fast.run_directory import RunDirectory, find_changes
from soda_fast.synthesis.studio import Studio
from soda_fast.train import resolve
from soda_fast.training.checkpoint_files import read_manifest

Encoders = Mapping[str, Callable[[Processes], Encode]]
"""Encoders by their name in the table; built when their turn comes."""

_TESTED_ON = {False: TEST_SPLIT, True: "images held out of the training split"}


@dataclass(frozen=True)
class _Origin:
    """What is evaluated and where the report goes.

    model: a run's, whose made images are measured in the features of the first encoder; None: none are. made_by: its
    checkpoint. held_out: of the training split, in place of the test split.
    """

    run: RunDirectory
    report: Path
    checkpoint: Checkpoint
    model: SODA | None = None
    made_by: str = ""
    held_out: bool = False


def evaluate(
    run: RunDirectory,
    baselines: Sequence[str] = (),
    overrides: Sequence[str] = (),
    plot: bool = False,
    ema_lengths: Sequence[float] = (),
    held_out: bool = False,
) -> None:
    """Probe the newest checkpoint's encoder on z and on pooled features; print a table, write evaluation.json.

    Args:
        run: a run with a checkpoint.
        baselines: "untrained" (the same encoder with its initial weights), "pixels" (the images themselves).
        overrides: `section.key=value` over the run's configuration.
        plot: also draw plots/evaluation/*.png and give TensorBoard's projector the test embeddings.
        ema_lengths: sigma_rel of averages to make of the run's snapshots, and to probe in place of that of
            `train.ema_beta`.
        held_out: probe on the slice of the training split that `evaluation.during` probes on, whose other images train
            the probes; the report is evaluation-held-out.json.

    Raises:
        ValueError: no run, no whole checkpoint, a data set without a test split, nothing to draw with, an average that
            cannot be made, or images to be made with several.
    """
    config = run.load_config(overrides)
    _check_held_out(held_out, config)
    made = [name for name in config.evaluation.protocols if name in OF_MADE_IMAGES]
    if made and len(set(ema_lengths)) > 1:
        raise ValueError(f"--ema-length: {made[0]} is measured on images that one model makes; give one length")
    dataset = load_dataset(config.data)
    with _processes(config, plot) as processes:
        checkpoint = processes.on_main(lambda: newest_checkpoint(run))
        models = _models(run, overrides, checkpoint, ema_lengths)
        encoders = _encoders(models, baselines, config)
        model, made_by = next(iter(models.values())), checkpoint.name
        weights = usual_average(config)
        if ema_lengths:
            weights = f"EMA of relative length {', '.join(map(str, dict.fromkeys(ema_lengths)))}, made of snapshots"
            made_by = f"{checkpoint.name}, {weights}"
        seen = read_manifest(checkpoint)["images_seen"]
        report = _held_out_report(run.evaluation) if held_out else run.evaluation
        origin = _Origin(run, report, Checkpoint(checkpoint.name, seen, weights), model, made_by, held_out)
        _evaluate(encoders, resolve(config, dataset), dataset, origin, plot, processes)


@contextmanager
def _processes(config: Config, plot: bool) -> Iterator[Processes]:
    """Those that evaluate together, once it is known that they can draw."""
    if plot:
        check_plots()
    with start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes:
        yield processes


def _models(
    run: RunDirectory, overrides: Sequence[str], checkpoint: Path, ema_lengths: Sequence[float]
) -> dict[str, SODA]:
    """A checkpoint's averages by their name in the table; with lengths those, in place of the usual one."""
    usual, config, _ = load_run(run, overrides, checkpoint=checkpoint)
    models = {f"ema-{length}": with_average(usual, run, config, checkpoint, length) for length in ema_lengths}
    return models or {"trained": usual}


def _encoders(models: Mapping[str, SODA], baselines: Sequence[str], config: Config) -> Encoders:
    encoders: dict[str, Callable[[Processes], Encode]] = {
        name: partial(_features_of, model) for name, model in models.items()
    }
    if "untrained" in baselines:
        encoders["untrained"] = lambda p: encode_features(frozen(build_model(config), p.device))
    if "pixels" in baselines:
        encoders["pixels"] = lambda p: encode_pixels
    return encoders


def _features_of(model: SODA, processes: Processes) -> Encode:
    return encode_features(frozen(model, processes.device))


def _held_out_report(report: Path) -> Path:
    """The report's file where images held out of the training split are probed."""
    return report.with_stem(f"{report.stem}{HELD_OUT}")


def _check_held_out(held_out: bool, config: Config) -> None:
    others = [name for name in config.evaluation.protocols if name not in PROTOCOLS]
    if held_out and others:
        raise ValueError(f"--held-out is for accuracies; leave {others[0]} out of evaluation.protocols")


def evaluate_module(
    config: Config, run: RunDirectory, spec: str, weights: Path | None, plot: bool = False, held_out: bool = False
) -> None:
    """Probe any torch module on a configuration's data; writes evaluation-SPEC-DATASET-NUMBER.json into the run.

    Args:
        config: its data and evaluation sections count.
        run: need not exist, unless images that its model makes are to be measured in the module's features.
        spec, weights: see soda_fast/encoders.py.
        plot, held_out: as in `evaluate`.

    Raises:
        ValueError: see `evaluate` and `build_encoder`.
    """
    _check_held_out(held_out, config)
    dataset = load_dataset(config.data)
    config = resolve(config, dataset)
    report = run.path / report_name(config, spec, weights)
    report = _held_out_report(report) if held_out else report
    with _processes(config, plot) as processes:
        named = build_encoder(spec, weights, dataset, processes)
        model, made_by = None, ""
        if any(name in OF_MADE_IMAGES for name in config.evaluation.protocols):
            model, made_by = _maker(run, config, processes)
        origin = _Origin(run, report, named.checkpoint, model, made_by, held_out)
        encoders = {spec: lambda p: encode_module(frozen(named.module, p.device), spec)}
        _evaluate(encoders, config, dataset, origin, plot, processes)


def report_name(config: Config, spec: str, weights: Path | None) -> str:
    """The file of an encoder's report: the same for the same encoder, weights, images and their size, else another."""
    data, file = config.data, str(weights.resolve()) if weights else None
    what = [spec, file, data.dataset, str(Path(data.root).resolve()), data.source_size]
    number = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return f"evaluation-{re.sub('[^A-Za-z0-9.]+', '-', spec)[-80:]}-{data.dataset}-{number}.json"


def _maker(run: RunDirectory, config: Config, processes: Processes) -> tuple[SODA, str]:
    """The model of the run whose made images are measured, and its checkpoint's name."""
    run.load_config()
    checkpoint = processes.on_main(lambda: newest_checkpoint(run))
    model, saved, _ = load_run(run, checkpoint=checkpoint)
    for key, (trained, wanted) in find_changes(saved, config).items():
        raise ValueError(
            f"{run.path} was trained with {key} = {trained!r}, not {wanted!r}; to measure its images, give the run "
            "directory in place of the YAML file"
        )
    return model, checkpoint.name


def _evaluate(
    encoders: Encoders, config: Config, dataset: Dataset, origin: _Origin, plot: bool, processes: Processes
) -> None:
    """A collective. The main process writes, tells and draws."""
    dataset = hold_out(dataset, config) if origin.held_out else dataset
    evaluation = _Evaluation(config, dataset, origin, processes)
    for name, build in encoders.items():
        evaluation.judge(name, as_configured(build(processes), config.evaluation, processes.device))
    if plot:
        # Drawn by the main process alone, from what all have encoded: not every protocol looks at both splits.
        evaluation.first.clean("train")
        evaluation.first.clean("test")
    if not processes.is_main:
        return
    # First what took long to find out, which a full disk must not take along.
    evaluation.tell()
    evaluation.write()
    evaluation.tell_where()
    if plot:
        folder = origin.run.path / "plots" / origin.report.stem
        for path in draw_plots(origin.run.path, folder, evaluation.first, dataset, origin.checkpoint.images_seen):
            print(f"plot:        {path}")


class _Evaluation:
    """The numbers of one encoder after another.

    first: the features of the first one.
    """

    first: CachedFeatures

    def __init__(self, config: Config, dataset: Dataset, origin: _Origin, processes: Processes) -> None:
        self.config, self.dataset, self.origin, self.processes = config, dataset, origin, processes
        self.accuracies = [name for name in config.evaluation.protocols if name in PROTOCOLS]
        self.measures = [name for name in config.evaluation.protocols if name not in PROTOCOLS]
        _check_splits(dataset, config, self.accuracies)
        self.results: dict[str, list[Result]] = {}
        self.measured: dict[str, list[Measurement]] = {}
        self._replaced: dict[Split, set[int]] = {"train": set(), "test": set()}
        self._start = time.perf_counter()

    def judge(self, name: str, encode: Encode) -> None:
        """Run all protocols and measures on an encoder. A collective."""
        is_first = not self.results
        prober = Prober(self.config, self.dataset, self.processes)
        provider = prober.provider(encode, self._splits["train"], self._splits["test"])
        if is_first:
            self.first = provider
        self.results[name] = self._run_protocols(name, provider)
        for part in self.processes.gather(prober.replaced):
            for split, found in part.items():
                self._replaced[split] |= found.keys()
        if self.processes.is_main and self.accuracies and self.measures:
            with suppress(OSError):  # a disk that stays full is told of at the end
                self.write()  # A measure that fails leaves what is finished.
        asked = [one for one in self.measures if not (one == "dci" and name == "pixels")]
        made = self._made_images() if is_first else None
        self.measured[name] = measure(asked, encode, self.config, self.dataset, self.processes, made)

    def _run_protocols(self, name: str, provider: CachedFeatures) -> list[Result]:
        """A probe that diverges ends the evaluation, and leaves what is finished in the report."""
        try:
            return run_protocols(self.accuracies, provider, len(self.dataset.class_names), _seeds(self.config))
        except DivergedError as error:
            if self.processes.is_main:
                self.results[name] = error.finished
                self.write()
            raise

    def write(self) -> None:
        """The report of what is finished. The main process's."""
        write_report(self.origin.report, self._subject(), self.results, self.measured)

    def tell(self) -> None:
        """Everything that people read."""
        if self.dataset.note:
            print(self.dataset.note)
        for split, found in self._replaced.items():
            if found:
                print(tell_replaced("held-out" if self.origin.held_out and split == "test" else split, len(found)))
        print(f"{self.dataset.name}, {self.origin.checkpoint.images_seen:,} images seen")
        if self.accuracies:
            print(f"top-1 accuracy in percent on {_TESTED_ON[self.origin.held_out]}")
            print(format_table(table_rows(self.results)))
        for note in notes(self.accuracies, len(self.dataset.train)):
            print(f"warning: {note}")
        if self.measures:
            print(format_measurements(self.measured))
        side = self.config.data.target_size
        if "reconstruction" in self.measures and self.origin.model is not None and side < SSIM_SIDE:
            print(f"no SSIM: its window is {SSIM_SIDE} pixels wide, data.target_size is {side}")

    def tell_where(self) -> None:
        """What lies where."""
        print(f"{time.perf_counter() - self._start:,.1f} s; all numbers: {self.origin.report}")
        picture = newest_picture(self.origin.run.samples)
        if picture:
            print(f"pictures:    {picture}")

    def _made_images(self) -> MadeImages | None:
        if self.origin.model is None:
            return None
        model = frozen(self.origin.model, self.processes.device)
        return MadeImages(Studio(model, self.dataset, self.config, self.processes), self.origin.made_by)

    def _subject(self) -> Subject:
        config, dataset, origin, device = self.config, self.dataset, self.origin, self.processes.device
        mean, std = ([round(value, 4) for value in values] for values in (dataset.mean, dataset.std))
        kept = "L2-normalised, " if config.evaluation.l2_normalize else ""
        return Subject(
            run=str(origin.run.path),
            checkpoint=origin.checkpoint,
            dataset=dataset.name,
            dataset_hash=self._fingerprints,
            transform=f"central square, {config.data.source_size} pixels, mean {mean}, deviation {std}",
            features=f"{kept}{config.evaluation.feature_precision}, encoder in {config.evaluation.encoder_precision}",
            split_sizes={name: len(images) for name, images in self._splits.items()},
            num_classes=len(dataset.class_names),
            seed=config.run.seed,
            seeds=_seeds(config),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
            seconds=time.perf_counter() - self._start,
            replaced_images={split: len(found) for split, found in self._replaced.items()},
            tested_on=_TESTED_ON[origin.held_out],
        )

    @property
    def _splits(self) -> dict[str, ImageSet]:
        assert self.dataset.test is not None, "checked at the start"
        return {"train": self.dataset.train, "test": self.dataset.test}

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Once: they take long."""
        return {name: fingerprint(images) for name, images in self._splits.items()}


def _check_splits(dataset: Dataset, config: Config, accuracies: Sequence[str]) -> None:
    if dataset.test is None:
        raise ValueError(
            f"data.root {config.data.root}: {dataset.name} has no test split to report on; "
            "add class folders under test/ or val/"
        )
    if accuracies and not np.isin(dataset.test.labels, dataset.train.labels).any():
        raise ValueError(
            f"evaluation.protocols has {accuracies[0]}, but no class of the test split is in the train split of "
            f"{config.data.root}, as where whole objects are held out; give --protocols reconstruction frechet"
        )


def newest_picture(samples: Path) -> Path | None:
    """The last picture of training in a run's folder of samples; those of `sample` begin with their task."""
    return max(
        (path for path in samples.glob("*.png") if path.stem.isdecimal()), key=lambda p: int(p.stem), default=None
    )


def _seeds(config: Config) -> tuple[int, ...]:
    return tuple(range(config.run.seed, config.run.seed + config.evaluation.seeds))
