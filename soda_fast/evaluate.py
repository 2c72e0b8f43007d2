"""`soda-fast evaluate`: probes of a run's averaged encoder, the test split reported once."""

from collections.abc import Sequence

import torch

from soda_fast.build import build_model
from soda_fast.config import Config
from soda_fast.data import Dataset, load_dataset
from soda_fast.evaluation.protocols import run_protocols
from soda_fast.evaluation.report import Subject, format_table, table_rows, write_report
from soda_fast.evaluation.result import Result
from soda_fast.model import SODA
from soda_fast.parallel import Processes, start_processes
from soda_fast.pretrained import load_run
from soda_fast.probing import Encode, Prober, encode_features, encode_pixels
from soda_fast.run_directory import RunDirectory
from soda_fast.training.checkpoint_files import read_manifest


def evaluate(run: RunDirectory, baselines: Sequence[str] = ()) -> None:
    """Probe the newest checkpoint's encoder on z and on pooled features; print a table, write evaluation.json.

    Args:
        run: a run with a checkpoint.
        baselines: "untrained" (the same encoder with its initial weights), "pixels" (the images themselves).

    Raises:
        ValueError: no run, no whole checkpoint, or a data set without a test split.
    """
    model, config, checkpoint = load_run(run)
    dataset = load_dataset(config.data)
    if dataset.test is None:
        raise ValueError(
            f"data.root {config.data.root}: {dataset.name} has no test split to report on; "
            "add class folders under test/ or val/"
        )
    with start_processes() as processes:
        results = {"trained": _probe(encode_features(_frozen(model, processes)), config, dataset, processes)}
        if "untrained" in baselines:
            untrained = _frozen(build_model(config), processes)
            results["untrained"] = _probe(encode_features(untrained), config, dataset, processes)
        if "pixels" in baselines:
            results["pixels"] = _probe(encode_pixels, config, dataset, processes)
        if processes.is_main:
            subject = Subject(
                run=str(run.path),
                images_seen=read_manifest(checkpoint)["images_seen"],
                weights="EMA",
                dataset=dataset.name,
                split_sizes={"train": len(dataset.train), "test": len(dataset.test)},
                num_classes=len(dataset.class_names),
                seed=config.run.seed,
                device=_describe(processes.device),
            )
            write_report(run.evaluation, subject, results)
            print(f"top-1 accuracy in percent on the test split of {dataset.name}, {subject.images_seen:,} images seen")
            print(format_table(table_rows(results)))
            print(f"all numbers: {run.evaluation}")
            pictures = sorted(run.samples.glob("*.png"))
            if pictures:
                print(f"pictures:    {pictures[-1]}")


def _probe(encode: Encode, config: Config, dataset: Dataset, processes: Processes) -> list[Result]:
    assert dataset.test is not None, "checked by evaluate"
    provider = Prober(config, dataset, processes).provider(encode, dataset.train, dataset.test)
    num_classes = len(dataset.class_names)
    seeds = range(config.run.seed, config.run.seed + config.evaluation.seeds)
    return run_protocols(config.evaluation.protocols, provider, num_classes, seeds)


def _frozen(model: SODA, processes: Processes) -> SODA:
    return model.eval().requires_grad_(False).to(processes.device)


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
