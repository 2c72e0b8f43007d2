"""k-NN protocols: the training split as bank, the test split as queries."""

from dataclasses import dataclass

from soda_fast.evaluation.knn import knn_accuracy
from soda_fast.evaluation.provider import FeatureProvider, check_names
from soda_fast.evaluation.result import Result, Setting


@dataclass(frozen=True)
class KnnProtocol:
    """k-NN by cosine similarity.

    temperature: of the votes exp(similarity / temperature); None for uniform votes. augmented_bank: whether the bank
    goes through the reference's random view, once.
    """

    name: str
    source: str
    ks: tuple[int, ...]
    temperature: float | None
    augmented_bank: bool

    def run(self, provider: FeatureProvider, num_classes: int) -> list[Result]:
        """One result for each kind of features and each k. Draws nothing: seeds do not matter."""
        banks = provider.augmented("reference", 0) if self.augmented_bank else provider.clean("train")
        queries = provider.clean("test")
        check_names(banks, queries)
        bank_labels, query_labels = provider.labels("train"), provider.labels("test")
        ks = tuple(k for k in self.ks if k <= len(bank_labels))
        if not ks:
            raise ValueError(
                f"protocol {self.name} compares with at least {min(self.ks)} training images and there are "
                f"{len(bank_labels)}: leave it out of evaluation.protocols, or add images"
            )
        skipped = tuple(k for k in self.ks if k not in ks)
        transform = self._transform(provider)
        results = []
        for name, bank in banks.items():
            accuracies = knn_accuracy(bank, bank_labels, queries[name], query_labels, ks, self.temperature)
            for k, accuracy in accuracies.items():
                setting: Setting = {"k": k, "temperature": self.temperature, "metric": "cosine"}
                results.append(Result(self.name, name, setting, transform, accuracy, skipped))
        return results

    def _transform(self, provider: FeatureProvider) -> str:
        if self.augmented_bank:
            return f"bank: {provider.descriptions['reference']}, once; queries: clean"
        return "bank and queries: clean"
