"""Time k-NN and linear classifiers: python -m benchmarks.evaluation

k-NN against scikit-learn's brute force on the same normalised float32 features, and against the matrix product alone;
13 linear classifiers trained together against 13 plain loops over the same features. Each round runs all of them one
after the other, so that a busy machine slows all; ratios are taken within a round, medians over rounds.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.json_file import write_json
from benchmarks.machine import describe_machine
from benchmarks.timing import timed, waiter
from soda_fast.evaluation.knn import knn_accuracy
from soda_fast.evaluation.linear_recipe import REFERENCE
from soda_fast.evaluation.linear_stack import LinearStack
from soda_fast.evaluation.numerics import full_precision, l2_normalize

KS = (10, 20, 200)
_CLASSES = 10


def measure_knn(device: torch.device, bank: int, queries: int, width: int, rounds: int) -> dict[str, Any]:
    """Seconds, ratios and agreement for `queries` compared with `bank`, both random and of `width` features."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(_CLASSES, width, generator=generator)
    labels, query_labels = (torch.randint(_CLASSES, (n,), generator=generator) for n in (bank, queries))
    x, q = (centres[some] + 8 * torch.randn(len(some), width, generator=generator) for some in (labels, query_labels))
    unit_x, unit_q = l2_normalize(x).numpy(), l2_normalize(q).numpy()
    our_x, our_labels, our_q, our_query_labels = (tensor.to(device) for tensor in (x, labels, q, query_labels))
    accuracies: dict[str, dict[int, float]] = {"ours": {}, "scikit-learn": {}}

    def ours(ks: tuple[int, ...]) -> None:
        accuracies["ours"] |= knn_accuracy(our_x, our_labels, our_q, our_query_labels, ks, None)

    def theirs(ks: tuple[int, ...]) -> None:
        for k in ks:
            model = KNeighborsClassifier(k, algorithm="brute").fit(unit_x, labels.numpy())
            accuracies["scikit-learn"][k] = float(model.score(unit_q, query_labels.numpy()))

    runs: dict[str, Callable[[], None]] = {
        "matrix product": lambda: _product(our_q, our_x),
        "ours, one k": lambda: ours(KS[1:2]),
        "scikit-learn, one k": lambda: theirs(KS[1:2]),
        "ours, three k": lambda: ours(KS),
        "scikit-learn, three k": lambda: theirs(KS),
    }
    seconds = _rounds(runs, device, rounds)
    return {
        "bank": bank,
        "queries": queries,
        "width": width,
        "seconds": seconds,
        "speed_up_one_k": _ratio(seconds["scikit-learn, one k"], seconds["ours, one k"]),
        "speed_up_three_k": _ratio(seconds["scikit-learn, three k"], seconds["ours, three k"]),
        "share_of_the_product": _ratio(seconds["matrix product"], seconds["ours, one k"]),
        "accuracy": accuracies,
    }


def measure_linear(device: torch.device, images: int, width: int, rounds: int) -> dict[str, Any]:
    """Seconds of one epoch of the classifiers alone, on features that are there: ours and a plain loop of modules.

    What surrounds it, encoding the epoch's views, is `benchmarks.train_step`'s and the loader's to measure.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, width, generator=generator).to(device)
    labels = torch.randint(_CLASSES, (images,), generator=generator).to(device)
    members = torch.arange(images, device=device)[None]
    rates = tuple(1e-3 * (i + 1) for i in range(13))
    stack = LinearStack(replace(REFERENCE, learning_rates=rates, passes=10**6), members, width, _CLASSES, (0,))
    loops = [_PlainProbe(width, rate, device) for rate in rates]

    def loop_over_all() -> None:
        for loop in loops:
            loop.epoch(features, labels)

    runs: dict[str, Callable[[], None]] = {
        "13 learning rates together": lambda: stack.train_pass(features, labels),
        "13 plain loops": loop_over_all,
    }
    seconds = _rounds(runs, device, rounds)
    return {
        "images": images,
        "width": width,
        "seconds": seconds,
        "speed_up": _ratio(seconds["13 plain loops"], seconds["13 learning rates together"]),
    }


class _PlainProbe:
    """BatchNorm, Linear and Adam as modules, a batch of 128 at a time."""

    def __init__(self, width: int, rate: float, device: torch.device) -> None:
        self.model = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, _CLASSES)).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate)

    def epoch(self, features: Tensor, labels: Tensor) -> None:
        for rows in torch.randperm(len(features), device=features.device).split(128):
            loss = F.cross_entropy(self.model(features[rows]), labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def _product(queries: Tensor, bank: Tensor) -> None:
    with full_precision():
        for some in queries.split(max(1, 2**25 // len(bank))):
            torch.mm(some, bank.T)


def _rounds(runs: dict[str, Callable[[], None]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """{name: seconds of each round}; one round before the clock runs, on a GPU alone, which it wakes up."""
    wait, warmup = waiter(device), int(device.type == "cuda")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(warmup + rounds):
        for name, run in runs.items():
            seconds[name] += timed(run, wait, 1)
    return {name: taken[warmup:] for name, taken in seconds.items()}


def _ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def benchmark(
    device: torch.device, bank: int = 50_000, queries: int = 10_000, width: int = 512, rounds: int = 3
) -> dict[str, Any]:
    """All figures, as JSON would hold them."""
    return {
        "machine": describe_machine(device),
        "knn": measure_knn(device, bank, queries, width, rounds),
        "linear": measure_linear(device, bank, width, rounds),
    }


def format_result(result: dict[str, Any]) -> str:
    """A few lines for a person."""
    machine, knn, linear = result["machine"], result["knn"], result["linear"]
    lines = [
        f"{machine['device']}, {machine['threads']} CPU threads, torch {machine['torch']}, commit {machine['commit']}",
        f"k-NN    {knn['bank']:,} x {knn['queries']:,} x {knn['width']}",
        *_times(knn["seconds"]),
        f"        one k: {knn['speed_up_one_k']:.2f} times scikit-learn; three: {knn['speed_up_three_k']:.2f}; "
        f"{100 * knn['share_of_the_product']:.0f} % of the matrix product's speed",
        f"linear  one epoch of {linear['images']:,} x {linear['width']}",
        *_times(linear["seconds"]),
        f"        together: {linear['speed_up']:.2f} times as fast",
    ]
    return "\n".join(lines)


def _times(seconds: dict[str, list[float]]) -> list[str]:
    return [
        f"        {name:<28} {statistics.median(some):8.3f} s ({min(some):.3f} .. {max(some):.3f})"
        for name, some in seconds.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is a GPU")
    parser.add_argument("--bank", type=int, default=50_000, help="rows compared with, and trained on")
    parser.add_argument("--queries", type=int, default=10_000, help="rows judged")
    parser.add_argument("--width", type=int, default=512, help="of the features")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    if options.bank < max(KS) or min(options.queries, options.width, options.rounds) < 1:
        parser.error(f"--bank must be at least {max(KS)}, --queries, --width and --rounds at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; use --device cpu")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    result = benchmark(device, options.bank, options.queries, options.width, options.rounds)
    print(format_result(result))
    if options.json:
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
