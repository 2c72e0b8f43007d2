"""Disentanglement, completeness, informativeness (Eastwood and Williams, ICLR 2018) of features of known factors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TREES = 50


@dataclass(frozen=True)
class DCI:
    """disentanglement: 1: each feature tells of one factor. completeness: 1: each factor is told by one feature.

    error: informativeness: RMSE of the factors predicted on held-out images, in their deviations, mean over factors; 0:
    the features tell all, 1: nothing. All in 0..1 (the error can pass 1).
    """

    disentanglement: float
    completeness: float
    error: float


def dci(z: Floats, factors: Floats, test_z: Floats, test_factors: Floats, seed: int) -> DCI:
    """Scores of features z (N, D) of images with factors (N, K), predicted by a random forest for each factor.

    Every split looks at all features, as is usual for regression; with a part of them, importance would spread over
    features that another one makes needless. Trees grow on all cores, and are the same for a seed on any number.

    Args:
        z, factors: fitted to. test_z (M, D), test_factors (M, K): the error is reported on.
        seed: of the forests; its last 32 bits count.
    """
    from sklearn.ensemble import RandomForestRegressor

    columns, errors = [], []
    for known, asked in zip(factors.T, test_factors.T):
        forest = RandomForestRegressor(_TREES, random_state=seed % 2**32, n_jobs=-1).fit(z, known)
        forest.set_params(n_jobs=1)  # The order in which several threads add up predictions shows in the last digits.
        columns.append(forest.feature_importances_)
        errors.append(np.sqrt(np.mean((forest.predict(test_z) - asked) ** 2)) / asked.std())
    importance = np.stack(columns, axis=1)
    return DCI(disentanglement(importance), completeness(importance), float(np.mean(errors)))


def disentanglement(importance: Floats) -> float:
    """Of importances (D, K): the features' 1 - entropy over factors, to the base K, weighted by their importance."""
    weights = importance.sum(axis=1)
    return float((_certainty(importance) * weights).sum() / max(weights.sum(), _TINY))


def completeness(importance: Floats) -> float:
    """Of importances (D, K): the factors' mean 1 - entropy over features, to the base D."""
    return float(_certainty(importance.T).mean())


_TINY = np.finfo(np.float64).tiny


def _certainty(rows: Floats) -> Floats:
    """1 - entropy of each row, taken for a distribution, to the base of its length; 0 for a row of zeros.

    1 for a row of one entry, which leaves nothing open.
    """
    shares = rows / np.maximum(rows.sum(axis=1, keepdims=True), _TINY)
    entropy = -(shares * np.log(np.maximum(shares, _TINY))).sum(axis=1) / np.log(max(rows.shape[1], 2))
    return np.where(rows.sum(axis=1) > 0, 1 - entropy, 0.0)
