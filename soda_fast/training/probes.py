"""Probes during training, on a slice held out of train; the test split stays untouched."""

from collections.abc import Callable

from soda_fast.config import Config
from soda_fast.data import Dataset
from soda_fast.evaluation.knn_protocol import KnnProtocol
from soda_fast.evaluation.linear_protocol import DivergedError
from soda_fast.evaluation.protocols import PROTOCOLS, run_protocol
from soda_fast.evaluation.result import headline
from soda_fast.model import SODA
from soda_fast.parallel import Processes, reshard
from soda_fast.probing import Prober, encode_features, hold_out

SHORT_NAMES = {"knn": "knn-dino", "linear": "linear-reference"}


class Probes:
    """Protocols on the averaged encoder.

    The slice is held out of the probes' training images. The model, which sees no labels, trains on all of train.

    schedule: {probe: interval in images}.
    warn: is told of probes that diverge, which training outlasts.
    """

    def __init__(self, config: Config, dataset: Dataset, processes: Processes, warn: Callable[[str], object]) -> None:
        self.config, self.num_classes, self._warn = config, len(dataset.class_names), warn
        self.schedule: dict[str, int] = {}
        if config.evaluation.during == "none":
            return
        self.schedule.update({str(probe): every for probe, every in config.evaluation.during.items()})
        split = hold_out(dataset, config)
        assert split.test is not None, "images were held out"
        self._fit, self._held_out = split.train, split.test
        for probe in self.schedule:
            _check_enough(probe, len(self._fit), dataset.name)
        self._prober = Prober(config, dataset, processes)

    def prefix(self, probe: str) -> str:
        """How the names of a probe's results begin in metrics.jsonl."""
        return f"{_protocol(probe)}/"

    def run(self, probe: str, model: SODA) -> dict[str, float]:
        """{"knn-dino/z": top-1 in [0, 1], ..}: the headline for each kind of features. A collective."""
        provider = self._prober.provider(encode_features(model), self._fit, self._held_out)
        protocol = _protocol(probe)
        try:
            results = run_protocol(protocol, provider, self.num_classes, self.config.run.seed)
        except DivergedError as error:
            self._warn(str(error))
            results = error.finished
        reshard(model)
        return {
            f"{self.prefix(probe)}{name}": headline([result for result in results if result.features == name]).accuracy
            for name in dict.fromkeys(result.features for result in results)
        }


def _protocol(probe: str) -> str:
    return SHORT_NAMES.get(probe, probe)


def _check_enough(probe: str, available: int, dataset: str) -> None:
    protocol = PROTOCOLS[_protocol(probe)]
    if isinstance(protocol, KnnProtocol) and available < min(protocol.ks):
        raise ValueError(
            f"evaluation.during asks for {probe}, which compares with {min(protocol.ks)} images or more, and {dataset} "
            f"leaves {available} to compare with; leave it out, or set evaluation.during=none"
        )
