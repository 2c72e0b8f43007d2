"""k-NN accuracy against scikit-learn and against a plain loop, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from soda_fast.evaluation import knn_accuracy
from soda_fast.evaluation.knn import nearest
from soda_fast.evaluation.numerics import full_precision, l2_normalize

KS = (1, 2, 5, 10, 20, 50)


def clouds(num: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clouds of different lengths, so that accuracy is far from 0 and 1 and normalisation matters."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (num,), generator=generator)
    features = centres[labels] + 1.5 * torch.randn(num, width, generator=generator)
    return features * torch.rand(num, 1, generator=generator).exp(), labels


BANK, BANK_LABELS = clouds(400, 16, 7, seed=1)
QUERIES, QUERY_LABELS = clouds(300, 16, 7, seed=2)


def unit(x: Tensor) -> np.ndarray[Any, Any]:
    x = x.double()
    return (x / x.norm(dim=1, keepdim=True)).numpy()


def sklearn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int) -> float:
    model = KNeighborsClassifier(k, weights="uniform", algorithm="brute").fit(unit(bank), bank_labels.numpy())
    return float(model.score(unit(queries), query_labels.numpy()))


def looped_accuracy(k: int, temperature: float) -> float:
    correct = 0
    for query, label in zip(unit(QUERIES), QUERY_LABELS.tolist(), strict=True):
        similarity = unit(BANK) @ query
        votes: dict[int, float] = {}
        for row in np.argsort(-similarity, kind="stable")[:k]:
            neighbour = int(BANK_LABELS[row])
            votes[neighbour] = votes.get(neighbour, 0.0) + math.exp(similarity[row] / temperature)
        correct += max(sorted(votes), key=votes.__getitem__) == label
    return correct / len(QUERIES)


def test_uniform_votes_equal_sklearn() -> None:
    accuracy = knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS, temperature=None)
    assert accuracy == {k: sklearn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, k) for k in KS}
    assert 0.3 < accuracy[20] < 0.95


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weighted_votes_equal_a_plain_loop(temperature: float) -> None:
    accuracy = knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, (10, 40), temperature)
    assert accuracy == {k: looped_accuracy(k, temperature) for k in (10, 40)}


def test_weights_matter() -> None:
    """One close neighbour of class 5 outvotes two distant ones of class 1, and does not when all votes are equal."""
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    arguments = (bank, torch.tensor([5, 1, 1]), torch.tensor([[1.0, 0.1]]), torch.tensor([5]), (3,))
    assert knn_accuracy(*arguments) == {3: 1.0}
    assert knn_accuracy(*arguments, temperature=None) == {3: 0.0}


def test_order_of_ks_is_kept_and_each_equals_its_own_pass() -> None:
    together = knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, (50, 1, 10, 1))
    assert list(together) == [50, 1, 10]
    for k, accuracy in together.items():
        assert knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, (k,)) == {k: accuracy}


def test_chunks_do_not_change_the_result() -> None:
    whole = knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS)
    for chunk in (1, 7, 299, 300, 10_000):
        assert knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS, chunk=chunk) == whole


def test_equal_votes_go_to_the_smallest_label_as_in_sklearn() -> None:
    bank = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]])
    labels = torch.tensor([9, 3, 3, 9])
    query = torch.tensor([[1.0, 0.0]])
    for k, winner in ((1, 9), (2, 3), (3, 3), (4, 3)):
        assert knn_accuracy(bank, labels, query, torch.tensor([winner]), (k,), temperature=None) == {k: 1.0}
        assert sklearn_accuracy(bank, labels, query, torch.tensor([winner]), k) == 1.0


def test_of_equal_neighbours_the_first_counts() -> None:
    bank = torch.tensor([[1.0, 0.0]]).repeat(500, 1)
    similarity, rows = nearest(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), bank, 20)
    assert torch.equal(rows, torch.arange(20).expand(3, 20))
    assert similarity[:, 0].tolist() == [1.0, -1.0, 0.0]
    labels = torch.arange(500)
    assert knn_accuracy(bank, labels, bank[:1], labels[:1], (1, 5), temperature=None) == {1: 1.0, 5: 1.0}


def test_neighbours_equal_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    # Few different values, positive, negative and zero: many equal similarities, all exact.
    bank = torch.randint(-2, 3, (300, 3), generator=generator).float()
    queries = torch.randint(-2, 3, (50, 3), generator=generator).float()
    expected = torch.sort(queries @ bank.T, dim=1, descending=True, stable=True)
    similarity, rows = nearest(queries, bank, 40)
    assert torch.equal(rows, expected.indices[:, :40])
    assert torch.equal(similarity, expected.values[:, :40])


def test_labels_of_any_value() -> None:
    values = torch.tensor([1000, -5, 7, 2**40, 0, 3, 11])
    renamed = knn_accuracy(BANK, values[BANK_LABELS], QUERIES, values[QUERY_LABELS], KS)
    assert renamed == knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS)


def test_a_class_that_the_bank_lacks_counts_as_wrong() -> None:
    kept = BANK_LABELS != 3
    accuracy = knn_accuracy(BANK[kept], BANK_LABELS[kept], QUERIES, QUERY_LABELS, (10,))[10]
    others = QUERY_LABELS != 3
    of_others = knn_accuracy(BANK[kept], BANK_LABELS[kept], QUERIES[others], QUERY_LABELS[others], (10,))[10]
    assert accuracy == pytest.approx(of_others * others.float().mean().item())
    assert knn_accuracy(BANK, BANK_LABELS, QUERIES, torch.full_like(QUERY_LABELS, 77), (10,)) == {10: 0.0}


def test_lengths_of_rows_do_not_matter() -> None:
    stretched = BANK * torch.logspace(-18, 18, len(BANK))[:, None]
    uniform = knn_accuracy(stretched, BANK_LABELS, 1e30 * QUERIES, QUERY_LABELS, KS, temperature=None)
    assert uniform == knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS, temperature=None)


def test_zero_rows_are_similar_to_nothing() -> None:
    assert l2_normalize(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    accuracy = knn_accuracy(torch.zeros(4, 3), torch.tensor([2, 1, 1, 0]), torch.zeros(1, 3), torch.tensor([2]), (1,))
    assert accuracy == {1: 1.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types(dtype: torch.dtype) -> None:
    bank, queries = BANK.to(dtype), QUERIES.to(dtype)
    expected = knn_accuracy(bank.float(), BANK_LABELS, queries.float(), QUERY_LABELS)
    assert knn_accuracy(bank, BANK_LABELS.int(), queries, QUERY_LABELS.to(torch.uint8)) == expected


def test_precision_and_autocast_of_training_do_not_matter() -> None:
    expected = knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert knn_accuracy(BANK, BANK_LABELS, QUERIES, QUERY_LABELS, KS) == expected
        assert torch.get_float32_matmul_precision() == "medium"
        with full_precision():
            # Asked for by name: a CPU without bf16 would compute in float32 anyway.
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        with pytest.raises(RuntimeError), full_precision():
            raise RuntimeError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


GOOD: dict[str, Any] = {
    "bank": BANK,
    "bank_labels": BANK_LABELS,
    "queries": QUERIES,
    "query_labels": QUERY_LABELS,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": ()}, r"ks is \(\)"),
        ({"ks": 20}, "ks is 20"),
        ({"ks": (10, 0)}, "ks has 0"),
        ({"ks": (-1,)}, "ks has -1"),
        ({"ks": (2.5,)}, "ks has 2.5"),
        ({"ks": (10, 401)}, "k = 401 neighbours but the bank has 400 rows"),
        ({"bank": torch.empty(0, 16), "bank_labels": torch.empty(0, dtype=torch.int64)}, "bank has the shape"),
        ({"queries": torch.empty(0, 16), "query_labels": torch.empty(0, dtype=torch.int64)}, "queries has the shape"),
        ({"bank": BANK[:, None]}, "bank has the shape"),
        ({"bank": BANK.long()}, "floating-point"),
        ({"bank_labels": BANK_LABELS[1:]}, "bank_labels has the shape"),
        ({"query_labels": QUERY_LABELS[:, None]}, "query_labels has the shape"),
        ({"query_labels": QUERY_LABELS.float()}, "integer class numbers"),
        ({"queries": QUERIES[:, 1:]}, "16 features and queries have 15"),
        ({"queries": QUERIES.clone().fill_(math.nan)}, "300 rows with NaN"),
        ({"bank": BANK.clone().index_fill_(0, torch.tensor([3]), math.inf)}, "bank has 1 rows with NaN or infinity"),
        ({"bank": BANK.double() * 1e200}, "bank has 400 rows with NaN or infinity"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**(GOOD | change))
