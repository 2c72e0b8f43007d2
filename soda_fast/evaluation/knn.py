"""k-NN classification of frozen features, all k in one pass, in bounded memory.

Weighted votes are those of DINO (arXiv 2104.14294, eval_knn.py); uniform votes those of scikit-learn's
KNeighborsClassifier on L2-normalised features, where Euclidean order is cosine order, apart from rows of zeros: their
Euclidean distance from every other row is 1, as if their cosine were 0.5, and here it is 0.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from soda_fast.evaluation.numerics import check_features, check_labels, full_precision, l2_normalize

# Similarities held at once when the caller names no chunk: 128 MiB of float32.
_SIMILARITIES_AT_ONCE = 2**25


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int] = (10, 20),
    temperature: float | None = 0.07,
    chunk: int | None = None,
) -> dict[int, float]:
    """Top-1 accuracy of k-NN classification by cosine similarity.

    Similarities are float32 products of normalised rows (zero rows are allowed: similar to nothing, 0). Of bank rows
    equal in similarity the first comes first; scikit-learn leaves that choice to its partial sort. A product's last bit
    is the BLAS's: it may change with the chunk, and differ between two copies of a bank row. Of classes equal in votes
    the smallest label wins. A query whose class the bank lacks counts as wrong.

    Args:
        bank: (N, D) floating point. The neighbours.
        bank_labels: (N,) integers, any values.
        queries: (M, D) floating point, on the bank's device.
        query_labels: (M,) integers.
        ks: numbers of neighbours, each 1..N.
        temperature: of the votes exp(similarity / temperature); None: every neighbour has one vote.
        chunk: queries compared with the bank at once; None: as many as fit 128 MiB of similarities.

    Returns:
        {k: accuracy in [0, 1]}, in the order of `ks`.

    Raises:
        ValueError: inputs that are empty, not finite or do not fit together; ks empty, below 1 or above N.
    """
    queries = torch.as_tensor(queries)
    check_features("queries", queries)
    query_labels = check_labels("query_labels", torch.as_tensor(query_labels), queries)
    predicted = knn_predictions(bank, bank_labels, queries, ks, temperature, chunk)
    counts = torch.stack([(labels == query_labels).sum() for labels in predicted.values()]).tolist()
    return {k: count / len(queries) for k, count in zip(predicted, counts, strict=True)}


def knn_predictions(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    ks: Sequence[int] = (10, 20),
    temperature: float | None = 0.07,
    chunk: int | None = None,
) -> dict[int, Tensor]:
    """The label that k-NN gives each query: {k: (M,) int64}, in the order of `ks`. Arguments: see knn_accuracy."""
    bank, queries = torch.as_tensor(bank), torch.as_tensor(queries)
    check_features("bank", bank)
    check_features("queries", queries)
    bank_labels = check_labels("bank_labels", torch.as_tensor(bank_labels), bank)
    _check_together(bank, queries)
    rising = _checked_ks(ks, len(bank))
    _check_settings(temperature, chunk)

    classes, bank_classes = torch.unique(bank_labels, return_inverse=True)
    bank, queries = l2_normalize(bank), l2_normalize(queries)
    chunk = chunk or max(1, _SIMILARITIES_AT_ONCE // len(bank))
    parts = []
    with torch.no_grad(), full_precision():
        for some in queries.split(chunk):
            similarity, neighbours = nearest(some, bank, rising[-1])
            parts.append(_vote(similarity, bank_classes[neighbours], len(classes), rising, temperature))
    predicted = dict(zip(rising, classes[torch.cat(parts, dim=1)], strict=True))
    return {int(k): predicted[int(k)] for k in ks}


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(M, k) float32 similarities, falling, and (M, k) int64 bank rows; of equal similarities the first row first."""
    similarity = queries @ bank.T
    values, rows = _largest(similarity, min(k + 1, len(bank)))
    equal = values[:, 1:] == values[:, :-1]
    if k < len(bank):
        # A search takes any of several equal values. Where the cut falls between equal ones, sort the whole row.
        ambiguous = equal[:, -1].nonzero()[:, 0]
        rows[ambiguous, :k] = _descending(similarity[ambiguous]).indices[:, :k]
    # The set is right now. Equal values in it shall stand in the bank's order.
    values, rows = values[:, :k], rows[:, :k]
    tied = equal.any(dim=1).nonzero()[:, 0]
    if len(tied):
        ordered = rows[tied].sort(dim=1).values
        values[tied], order = _descending(similarity[tied].gather(1, ordered))
        rows[tied] = ordered.gather(1, order)
    return values, rows


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(M, k) values, falling, and columns of the k largest of each row; of equal values any.

    A search of the whole row costs as much as the product. The k largest values lie in the k groups of columns with the
    largest maxima, and a maximum over groups reads the row once: so the search is in N / G maxima and k G candidates.
    """
    count = similarity.shape[1]
    size = 2 ** round(math.log2(max(1.0, math.sqrt(count / k))))  # the G for which both are equally many
    width = count // size  # group j has the columns j, j + width, j + 2 width, ...; the rest is searched too
    if size < 4 or width < k:
        values, columns = torch.topk(similarity, k, dim=1)
        return values, columns
    grouped = similarity[:, : size * width].unflatten(1, (size, width))
    groups = torch.topk(grouped.amax(dim=1), k, dim=1, sorted=False).indices
    columns = (groups[:, None] + width * torch.arange(size, device=groups.device)[:, None]).flatten(1)
    rest = torch.arange(size * width, count, device=groups.device).expand(len(similarity), -1)
    columns = torch.cat([columns, rest], dim=1)
    values, places = torch.topk(similarity.gather(1, columns), k, dim=1)
    return values, columns.gather(1, places)


def _descending(values: Tensor) -> torch.return_types.sort:
    """Rows sorted from high to low, equal values in their order; adding 0 turns -0 into 0, its equal."""
    return torch.sort(values + 0.0, dim=1, descending=True, stable=True)


def _vote(
    similarity: Tensor, neighbour_classes: Tensor, num_classes: int, ks: list[int], temperature: float | None
) -> Tensor:
    """(len(ks), M) int64: the class with most votes among the first k neighbours, for each of the rising ks."""
    if temperature is None:
        weights = torch.ones_like(similarity, dtype=torch.float64)
    else:
        # Relative to the nearest neighbour, so that exp cannot overflow: a factor common to all classes of a query.
        weights = torch.exp((similarity - similarity[:, :1]).double() / temperature)
    votes = torch.zeros(len(similarity), num_classes, dtype=torch.float64, device=similarity.device)
    predicted = []
    for previous, k in zip([0, *ks], ks, strict=False):
        votes.scatter_add_(1, neighbour_classes[:, previous:k], weights[:, previous:k])
        # argmax returns the first of equal values, and classes are sorted: the smallest label.
        predicted.append(votes.argmax(dim=1))
    return torch.stack(predicted)


def _check_together(bank: Tensor, queries: Tensor) -> None:
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(
            f"bank has {bank.shape[1]} features and queries have {queries.shape[1]}: take both from one encoder"
        )
    if bank.device != queries.device:
        raise ValueError(f"bank is on {bank.device} and queries are on {queries.device}: move one of them")


def _checked_ks(ks: Sequence[int], num_bank: int) -> list[int]:
    """The different ks, rising."""
    if not isinstance(ks, Sequence) or len(ks) == 0:
        raise ValueError(f"ks is {ks!r}: give at least one number of neighbours, as (20,)")
    for k in ks:
        if isinstance(k, bool) or int(k) != k or k < 1:
            raise ValueError(f"ks has {k!r}: a number of neighbours is an integer of at least 1")
        if k > num_bank:
            raise ValueError(f"k = {k} neighbours but the bank has {num_bank} rows: lower k or enlarge the bank")
    return sorted({int(k) for k in ks})


def _check_settings(temperature: float | None, chunk: int | None) -> None:
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}: give a positive number, or None for uniform votes")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}: compare at least 1 query at once, or give None")
