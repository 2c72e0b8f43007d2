"""Time whole protocols, encoding included: python -m benchmarks.probe_costs --config configs/cifar10.yaml [key=value]

An encoder with its initial weights and random images in memory, as many as are asked for:
encoding  images a second through each way that `evaluation.encoder_precision` and `compile_encoder` offer.
reference the linear probe as the reference implementation trains it (one worker with Pillow, batches of 128, the
          encoder in eager fp32) and as `linear-reference` does, in images a second of a pass over the training images.
protocols seconds of `evaluation.protocols`, with --all also of all there are, each set in one go as `evaluate` runs it:
          by far the longest, 11.5 million images to encode for CIFAR-10, and so the last.

The result is written after each of the three, so that one that is cut off leaves what it had.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from benchmarks.json_file import write_json
from benchmarks.ladder.worker_loader import augmentations, open_image
from benchmarks.machine import describe_machine
from benchmarks.timing import timed, waiter
from soda_fast.build import build_model
from soda_fast.config import Config, load_config
from soda_fast.data import Dataset
from soda_fast.data.image_set import ArrayImages, ImageSet
from soda_fast.encoding import as_configured, frozen
from soda_fast.evaluation.linear_recipe import REFERENCE
from soda_fast.evaluation.numerics import l2_normalize
from soda_fast.evaluation.protocols import PROTOCOLS, run_protocols
from soda_fast.evaluation.provider import CachedFeatures
from soda_fast.parallel import Processes, start_processes
from soda_fast.probing import Prober, encode_features
from soda_fast.train import resolve

Precision = Literal["fp32", "bf16"]
CLASSES = 10
LEAST_TRAIN = 220  # images: knn-lightly asks for the 200 nearest
_REFERENCE_BATCH = 128


class Bench:
    """One encoder and one set of random images.

    Args:
        config: of the encoder and the views.
        train, test: how many images.
        rounds: times that each way is measured.
    """

    def __init__(self, config: Config, processes: Processes, train: int, test: int, rounds: int) -> None:
        self.dataset = random_images(config.data.source_size, train, test)
        self.config = resolve(config, self.dataset)
        self.processes, self.rounds = processes, rounds
        self.model = frozen(build_model(self.config), processes.device)

    def provider(self, precision: Precision = "fp32", compiled: bool = False) -> CachedFeatures:
        """Features as `evaluate` has them, nothing kept yet."""
        evaluation = replace(self.config.evaluation, encoder_precision=precision, compile_encoder=compiled)
        encode = as_configured(encode_features(self.model), evaluation, self.processes.device)
        prober = Prober(self.config, self.dataset, self.processes)
        assert self.dataset.test is not None, "random_images makes one"
        return prober.provider(encode, self.dataset.train, self.dataset.test)

    def seconds(self, run: Callable[[], object], rounds: int = 1) -> list[float]:
        """Of each round, the device's work included."""
        return timed(run, waiter(self.processes.device), rounds)


def random_images(size: int, train: int, test: int) -> Dataset:
    """Noise, with labels that count through ten classes."""
    generator = np.random.default_rng(0)

    def split(count: int, name: str) -> ArrayImages:
        pixels = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        return ArrayImages(pixels, np.arange(count, dtype=np.int64) % CLASSES, name)

    names = tuple(str(number) for number in range(CLASSES))
    return Dataset("random", split(train, "training image"), split(test, "test image"), names, (0.5,) * 3, (0.25,) * 3)


def measure_encoding(bench: Bench) -> dict[str, list[float]]:
    """{way: images a second of each round}; the first, which compiles and wakes the device up, is left out."""
    count, found = len(bench.dataset.train), {}
    ways: Iterator[tuple[Precision, bool]] = product(("fp32", "bf16"), (False, True))
    for precision, compiled in ways:
        provider = bench.provider(precision, compiled)

        def encode(provider: CachedFeatures = provider) -> None:
            provider.encode_augmented("reference", 0)

        encode()
        name = f"{precision}{', compiled' if compiled else ''}"
        found[name] = [count / seconds for seconds in bench.seconds(encode, bench.rounds)]
    return found


def measure_reference(bench: Bench, batches: int) -> dict[str, list[float]]:
    """{way: images a second of each round} of passes with a random view, classifier included. Ours classifies z and the
    pooled features, the reference's z alone.

    batches: of the reference's way, after as many to warm up.
    """
    count = len(bench.dataset.train)

    def ours() -> None:
        run_protocols(("linear-reference",), bench.provider(), CLASSES, (0,))

    assert REFERENCE.passes is not None, "the protocol names its passes"
    seconds = bench.seconds(ours, bench.rounds)
    theirs = _reference_rates(bench, batches)
    return {"linear-reference": [REFERENCE.passes * count / one for one in seconds], "the reference's way": theirs}


def _reference_rates(bench: Bench, batches: int) -> list[float]:
    device, width = bench.processes.device, bench.config.model.encoder.z_dim
    views = _PillowViews(bench.config, bench.dataset)
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(
        views, _REFERENCE_BATCH, shuffle=True, num_workers=1, pin_memory=device.type == "cuda", drop_last=True
    )
    # As it is built: eager, and contiguous on a GPU too.
    encoder = build_model(bench.config).encoder.eval().requires_grad_(False).to(device)
    head = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, CLASSES)).to(device)
    optimizer = torch.optim.Adam(head.parameters(), 1e-3)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            z = l2_normalize(encoder(images.to(device)))
        loss = F.cross_entropy(head(z), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def some(stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        for images, labels in islice(stream, batches):
            step(images, labels)

    endless = _endless(loader)
    some(endless)
    rates = [batches * _REFERENCE_BATCH / seconds for seconds in bench.seconds(lambda: some(endless), bench.rounds)]
    endless.close()
    return rates


def _endless(loader: DataLoader[tuple[Tensor, int]]) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Pass after pass."""
    while True:
        yield from loader


class _PillowViews(TorchDataset[tuple[Tensor, int]]):
    """The reference's random view for probes: crop and flip, by torchvision on Pillow images."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        view, size = config.evaluation.view.as_view(), config.data.source_size
        self.images: ImageSet = dataset.train
        self.transform = transforms.Compose(
            [
                *augmentations(view, size, self.images),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(open_image(self.images, index)), int(self.images.labels[index])


def measure_protocols(bench: Bench, everything: bool) -> dict[str, list[float]]:
    """{what: seconds}: those of the configuration as it encodes; and of all that there are, in bf16 and compiled."""
    evaluation = bench.config.evaluation
    seeds = tuple(range(evaluation.seeds))

    def run(names: Sequence[str], precision: Precision, compiled: bool) -> list[float]:
        return bench.seconds(lambda: run_protocols(names, bench.provider(precision, compiled), CLASSES, seeds))

    chosen = [name for name in evaluation.protocols if name in PROTOCOLS]
    found = {"configured": run(chosen, evaluation.encoder_precision, evaluation.compile_encoder)}
    if everything:
        found["all, bf16, compiled"] = run(tuple(PROTOCOLS), "bf16", True)
    return found


def benchmark(bench: Bench, batches: int, everything: bool, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All figures, as JSON would hold them; `keep` gets what there is after each part."""
    result: dict[str, Any] = {
        "machine": describe_machine(bench.processes.device),
        "train": len(bench.dataset.train),
        "test": len(bench.dataset.test or ()),
    }
    parts: dict[str, Callable[[], dict[str, list[float]]]] = {
        "encoding": lambda: measure_encoding(bench),
        "reference": lambda: measure_reference(bench, batches),
        "protocols": lambda: measure_protocols(bench, everything),
    }
    for name, measure in parts.items():
        result[name] = measure()
        print(format_part(name, result[name]), flush=True)
        if name == "reference":
            ours, theirs = (statistics.median(rates) for rates in result[name].values())
            print(f"linear-reference: {ours / theirs:.2f} times the reference's way", flush=True)
        keep(result)
    return result


def format_part(part: str, figures: dict[str, list[float]]) -> str:
    """A line for each figure."""
    unit = "s" if part == "protocols" else "images/s"
    return "\n".join(
        f"{part:<10} {name:<22} {statistics.median(some):10,.1f} {unit} ({min(some):,.1f} .. {max(some):,.1f})"
        for name, some in figures.items()
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe_costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the file's keys")
    parser.add_argument("--train", type=int, default=50_000, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--batches", type=int, default=20, help="of 128 in a round of the reference's way")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything but the protocols is measured")
    parser.add_argument("--all", action="store_true", help="time all protocols together too; hours on a CPU")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_intermixed_args(arguments)
    if options.train < LEAST_TRAIN or min(options.test, options.batches, options.rounds) < 1:
        parser.error(f"--train must be at least {LEAST_TRAIN}, --test, --batches and --rounds at least 1")

    def keep(result: dict[str, Any]) -> None:
        if options.json:
            write_json(options.json, result)

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with start_processes() as processes:
        bench = Bench(config, processes, options.train, options.test, options.rounds)
        benchmark(bench, options.batches, options.all, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
