"""`soda-fast evaluate`: probes of a run's averaged encoder or of any other, the test split reported once.

With `held_out`, of images held out of the training split, and the test split stays unread: for choosing.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from soda_fast.build import build_model
from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.data.fingerprint import fingerprint
from soda_fast.data.unreadable import tell_replaced
from soda_fast.encoders import RUN, build_encoder, encode_module
from soda_fast.encoding import Encode, as_configured, frozen
from soda_fast.evaluation.measurement import Measurement, format_measurements
from soda_fast.evaluation.protocols import PROTOCOLS, run_protocols
from soda_fast.evaluation.provider import CachedFeatures
from soda_fast.evaluation.report import HELD_OUT, TEST_SPLIT, Subject, format_table, table_rows, write_report
from soda_fast.evaluation.result import Result
from soda_fast.evaluation.ssim import SSIM_SIDE
from soda_fast.measures import OF_MADE_IMAGES, MadeImages, measure
from soda_fast.model import SODA
from soda_fast.parallel import Processes, start_processes
from soda_fast.plots import check_plots, draw_plots
from soda_fast.posthoc import with_average
from soda_fast.pretrained import load_run
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
    """What is evaluated and where the report goes. checkpoint, images_seen, weights: see Subject.

    model: a run's, whose made images are measured in the features of the first encoder; None: none are. made_by: its
    checkpoint. held_out: of the training split, in place of the test split.
    """

    run: RunDirectory
    report: Path
    checkpoint: str
    images_seen: int
    weights: str
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
    usual, config, checkpoint = load_run(run, overrides)
    _check_held_out(held_out, config)
    made = [name for name in config.evaluation.protocols if name in OF_MADE_IMAGES]
    if made and len(set(ema_lengths)) > 1:
        raise ValueError(f"--ema-length: {made[0]} is measured on images that one model makes; give one length")
    models = {f"ema-{length}": with_average(usual, run, config, checkpoint, length) for length in ema_lengths}
    models = models or {"trained": usual}
    encoders: dict[str, Callable[[Processes], Encode]] = {
        name: partial(_features_of, model) for name, model in models.items()
    }
    if "untrained" in baselines:
        encoders["untrained"] = lambda p: encode_features(frozen(build_model(config), p.device))
    if "pixels" in baselines:
        encoders["pixels"] = lambda p: encode_pixels
    seen = read_manifest(checkpoint)["images_seen"]
    model, made_by = next(iter(models.values())), checkpoint.name
    weights = f"EMA of train.ema_beta {config.train.ema_beta}"
    if ema_lengths:
        weights = f"EMA of relative length {', '.join(map(str, dict.fromkeys(ema_lengths)))}, made of snapshots"
        made_by = f"{checkpoint.name}, {weights}"
    report = _held_out_report(run.evaluation) if held_out else run.evaluation
    origin = _Origin(run, report, checkpoint.name, seen, weights, model, made_by, held_out)
    dataset = load_dataset(config.data)
    _evaluate(encoders, resolve(config, dataset), dataset, origin, plot)


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
    module = build_encoder(spec, weights, dataset)
    model, made_by = None, ""
    if any(name in OF_MADE_IMAGES for name in config.evaluation.protocols):
        model, made_by = _maker(run, config)
    report = run.path / report_name(config, spec, weights)
    report = _held_out_report(report) if held_out else report
    origin = _Origin(run, report, spec, 0, str(weights) if weights else _own_weights(spec), model, made_by, held_out)
    _evaluate({spec: lambda p: encode_module(module.to(p.device), spec)}, config, dataset, origin, plot)


def report_name(config: Config, spec: str, weights: Path | None) -> str:
    """The file of an encoder's report: the same for the same encoder, weights, images and their size, else another."""
    data, file = config.data, str(weights.resolve()) if weights else None
    what = [spec, file, data.dataset, str(Path(data.root).resolve()), data.source_size]
    number = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
    return f"evaluation-{re.sub('[^A-Za-z0-9.]+', '-', spec)[-80:]}-{data.dataset}-{number}.json"


def _maker(run: RunDirectory, config: Config) -> tuple[SODA, str]:
    """The model of the run whose made images are measured, and its checkpoint's name."""
    model, saved, checkpoint = load_run(run)
    for key, (trained, wanted) in find_changes(saved, config).items():
        raise ValueError(
            f"{run.path} was trained with {key} = {trained!r}, not {wanted!r}; to measure its images, give the run "
            "directory in place of the YAML file"
        )
    return model, checkpoint.name


def _own_weights(spec: str) -> str:
    return "EMA" if spec.startswith(f"{RUN}:") else "untrained"


def _evaluate(encoders: Encoders, config: Config, dataset: Dataset, origin: _Origin, plot: bool) -> None:
    start = time.perf_counter()
    if plot:
        check_plots()
    measures = [name for name in config.evaluation.protocols if name not in PROTOCOLS]
    if origin.held_out:
        dataset = hold_out(dataset, config)
    if dataset.test is None:
        raise ValueError(
            f"data.root {config.data.root}: {dataset.name} has no test split to report on; "
            "add class folders under test/ or val/"
        )
    accuracies = [name for name in config.evaluation.protocols if name in PROTOCOLS]
    if accuracies and not np.isin(dataset.test.labels, dataset.train.labels).any():
        raise ValueError(
            f"evaluation.protocols has {accuracies[0]}, but no class of the test split is in the train split of "
            f"{config.data.root}, as where whole objects are held out; give --protocols reconstruction frechet"
        )
    results: dict[str, list[Result]] = {}
    measured: dict[str, list[Measurement]] = {}
    with start_processes(timeout_minutes=config.parallel.timeout_minutes) as processes:
        first: CachedFeatures | None = None
        subject: Subject | None = None  # of the main process alone
        replaced: dict[str, set[int]] = {"train": set(), "test": set()}
        for name, build in encoders.items():
            encode = as_configured(build(processes), config.evaluation, processes.device)
            prober = Prober(config, dataset, processes)
            provider = prober.provider(encode, dataset.train, dataset.test)
            results[name] = run_protocols(accuracies, provider, len(dataset.class_names), _seeds(config))
            first = first or provider
            for part in processes.gather(prober.replaced):
                for split in ("train", "test"):
                    replaced[split] |= part[split].keys()
            if processes.is_main:
                counts = {split: len(found) for split, found in replaced.items()}
                subject = subject or _subject(config, dataset, origin, processes.device)
                subject = replace(subject, seconds=time.perf_counter() - start, replaced_images=counts)
                if accuracies and measures:  # A measure that fails leaves what is finished.
                    write_report(origin.report, subject, results, measured)
            made = None
            if origin.model is not None and first is provider:
                studio = Studio(frozen(origin.model, processes.device), dataset, config, processes)
                made = MadeImages(studio, origin.made_by)
            asked = [one for one in measures if not (one == "dci" and name == "pixels")]
            measured[name] = measure(asked, encode, config, dataset, processes, made)
        if plot and first is not None:
            # Drawn by the main process alone, from what all have encoded: not every protocol looks at both splits.
            first.clean("train")
            first.clean("test")
        if subject is None:  # not the main process
            return
        subject = replace(subject, seconds=time.perf_counter() - start)
        write_report(origin.report, subject, results, measured)
        if dataset.note:
            print(dataset.note)
        for split, count in subject.replaced_images.items():
            if count:
                print(tell_replaced("held-out" if origin.held_out and split == "test" else split, count))
        print(f"{dataset.name}, {subject.images_seen:,} images seen")
        if accuracies:
            print(f"top-1 accuracy in percent on {_TESTED_ON[origin.held_out]}")
            print(format_table(table_rows(results)))
        if measures:
            print(format_measurements(measured))
        if "reconstruction" in measures and origin.model is not None and config.data.target_size < SSIM_SIDE:
            print(f"no SSIM: its window is {SSIM_SIDE} pixels wide, data.target_size is {config.data.target_size}")
        print(f"{subject.seconds:,.1f} s; all numbers: {origin.report}")
        picture = newest_picture(origin.run.samples)
        if picture:
            print(f"pictures:    {picture}")
        if plot and first is not None:
            folder = origin.run.path / "plots" / origin.report.stem
            for path in draw_plots(origin.run.path, folder, first, dataset, subject.images_seen):
                print(f"plot:        {path}")


def newest_picture(samples: Path) -> Path | None:
    """The last picture of training in a run's folder of samples; those of `sample` begin with their task."""
    return max(
        (path for path in samples.glob("*.png") if path.stem.isdecimal()), key=lambda p: int(p.stem), default=None
    )


def _subject(config: Config, dataset: Dataset, origin: _Origin, device: torch.device) -> Subject:
    """Its seconds and replaced images are filled in as they become known."""
    assert dataset.test is not None, "checked by _evaluate"
    splits = {"train": dataset.train, "test": dataset.test}
    mean, std = ([round(value, 4) for value in values] for values in (dataset.mean, dataset.std))
    kept = "L2-normalised, " if config.evaluation.l2_normalize else ""
    return Subject(
        run=str(origin.run.path),
        checkpoint=origin.checkpoint,
        images_seen=origin.images_seen,
        weights=origin.weights,
        dataset=dataset.name,
        dataset_hash={name: fingerprint(images) for name, images in splits.items()},
        transform=f"central square, {config.data.source_size} pixels, mean {mean}, deviation {std}",
        features=f"{kept}{config.evaluation.feature_precision}, encoder in {config.evaluation.encoder_precision}",
        split_sizes={name: len(images) for name, images in splits.items()},
        num_classes=len(dataset.class_names),
        seed=config.run.seed,
        seeds=_seeds(config),
        device=_describe(device),
        seconds=0.0,
        tested_on=_TESTED_ON[origin.held_out],
    )


def _seeds(config: Config) -> tuple[int, ...]:
    return tuple(range(config.run.seed, config.run.seed + config.evaluation.seeds))


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
