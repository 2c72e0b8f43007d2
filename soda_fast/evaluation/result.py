"""One number of a protocol, and everything that it depends on."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Setting = dict[str, int | float | str | Sequence[float] | Sequence[str] | None]

_HEADLINE_K = 20


@dataclass(frozen=True)
class Result:
    """An accuracy and how it was made.

    accuracy: top-1 in [0, 1], the mean over seeds. skipped_ks: numbers of neighbours left out because the bank has
    fewer images. per_seed: accuracies in the order of the setting's "seeds"; empty where nothing is drawn.
    """

    protocol: str
    features: str
    setting: Setting
    transform: str
    accuracy: float
    skipped_ks: tuple[int, ...] = ()
    per_seed: tuple[float, ...] = ()

    @property
    def k(self) -> int | None:
        """Number of neighbours; None of a linear probe."""
        k = self.setting.get("k")
        return k if isinstance(k, int) else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n - 1); None with fewer than two."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else None


def over_seeds(protocol: str, features: str, setting: Setting, transform: str, accuracies: Sequence[float]) -> Result:
    """The result of several seeds: their mean, and each."""
    per_seed = tuple(float(accuracy) for accuracy in accuracies)
    return Result(protocol, features, setting, transform, statistics.fmean(per_seed), (), per_seed)


def headline(results: Iterable[Result]) -> Result:
    """The number to quote of one protocol on one kind of features.

    k = 20, or the largest k below it that was run; where all are larger, the smallest.
    """
    results = list(results)
    if len({(result.protocol, result.features) for result in results}) != 1:
        raise ValueError("a headline is chosen among the results of one protocol on one kind of features")
    small = [result for result in results if (result.k or 0) <= _HEADLINE_K]
    return max(small, key=lambda r: r.k or 0) if small else min(results, key=lambda r: r.k or 0)
