"""The named protocols: exact settings, where they come from, and how to run them.

k-NN      knn-dino          k = 10, 20, 100, 200, votes exp(cosine / 0.07), clean bank
          knn-lightly       k = 200, votes exp(cosine / 0.1), clean bank
          knn-reference     k = 20, uniform votes, bank through the reference's random view, once
linear    linear-mae        BatchNorm + Linear, LARS, 90 epochs
          linear-dinov2     13 learning rates at once, SGD, 12,500 steps
          linear-solo       SGD, 100 epochs, steps at 60 and 80
          linear-reference  BatchNorm + Linear, Adam, 15 epochs
          linear-logistic   L-BFGS on frozen clean features, 45 values of C

The settings of the linear ones stand in linear_recipe.py. mae, dinov2 and solo were published for 224-pixel crops of
ImageNet: here the crop is resized to the run's own source size, without the evaluation's resize by 256/224. Views of a
pass are the same for all seeds, features and protocols.
"""

from collections.abc import Sequence

from soda_fast.evaluation.knn_protocol import KnnProtocol
from soda_fast.evaluation.linear_protocol import DivergedError, LinearProtocol, run_linear
from soda_fast.evaluation.linear_recipe import DINOV2, MAE, REFERENCE, SOLO
from soda_fast.evaluation.logistic_protocol import LogisticProtocol
from soda_fast.evaluation.provider import FeatureProvider
from soda_fast.evaluation.result import Result

PROTOCOLS: dict[str, KnnProtocol | LinearProtocol | LogisticProtocol] = {
    protocol.name: protocol
    for protocol in (
        KnnProtocol("knn-dino", "DINO (arXiv 2104.14294), eval_knn.py", (10, 20, 100, 200), 0.07, augmented_bank=False),
        KnnProtocol(
            "knn-lightly",
            "lightly, benchmarks/imagenet/resnet50/knn_eval.py, the settings of arXiv 1805.01978; the last checkpoint, "
            "not the best of all epochs",
            (200,),
            0.1,
            augmented_bank=False,
        ),
        KnnProtocol("knn-reference", "FutureXiang/soda, metric.py", (20,), None, augmented_bank=True),
        LinearProtocol("linear-reference", REFERENCE),
        LinearProtocol("linear-mae", MAE),
        LinearProtocol("linear-dinov2", DINOV2),
        LinearProtocol("linear-solo", SOLO),
        LogisticProtocol(
            "linear-logistic",
            "DINOv2, eval/log_regression.py: 45 values of C from 1e-6 to 1e5, chosen on a tenth of train, L2 penalty; "
            "departs from it in taking a tenth of each class, and in a tolerance of 1e-5, not 1e-12: a large C counts "
            "for less than it says",
            tuple(10 ** (-6 + 11 * i / 44) for i in range(45)),
        ),
    )
}


def run_protocols(
    names: Sequence[str], provider: FeatureProvider, num_classes: int, seeds: Sequence[int]
) -> list[Result]:
    """Run protocols of `PROTOCOLS` on all features that the provider has, each pass of images encoded once.

    Args:
        names: which; results come in their order.
        provider: features and labels.
        num_classes: classes to tell apart.
        seeds: of initial weights, orders, and the slices on which hyperparameters are chosen.

    Raises:
        ValueError: an unknown name, no seed, or features and labels that cannot be judged.
        DivergedError: a ValueError of linear classifiers that diverged; it has the results of all other protocols.
    """
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown:
        raise ValueError(f"protocol {unknown[0]!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    if not seeds:
        raise ValueError("seeds is empty: give at least one")
    chosen = [PROTOCOLS[name] for name in dict.fromkeys(names)]
    results: list[Result] = []
    for protocol in chosen:
        if isinstance(protocol, KnnProtocol):
            results += protocol.run(provider, num_classes)
        elif isinstance(protocol, LogisticProtocol):
            results += protocol.run(provider, num_classes, tuple(seeds))
    linear = [protocol for protocol in chosen if isinstance(protocol, LinearProtocol)]
    diverged: Sequence[str] = ()
    if linear:
        try:
            results += run_linear(linear, provider, num_classes, tuple(seeds))
        except DivergedError as error:
            results, diverged = results + error.finished, error.diverged
    order = {protocol.name: place for place, protocol in enumerate(chosen)}
    results.sort(key=lambda result: order[result.protocol])
    if diverged:
        raise DivergedError(diverged, results)
    return results


def run_protocol(name: str, provider: FeatureProvider, num_classes: int, seed: int) -> list[Result]:
    """Run one protocol with one seed; as `run_protocols`."""
    return run_protocols((name,), provider, num_classes, (seed,))
