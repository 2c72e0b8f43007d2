"""Frechet distance between two sets of features, each taken for a Gaussian (Heusel et al., arXiv 1706.08500)."""

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), means and covariances (n - 1) in float64.

    The last root's trace is the sum of the singular values of C_x^(1/2) C_y^(1/2), whose factors come from eigenvalues:
    accurate also where there are fewer rows than columns. The distance falls with the number of rows: compare equal
    numbers only.

    Args:
        x, y: (N, D) and (M, D) floating point, at least two rows each.

    Raises:
        ValueError: other shapes.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"features of the shapes {tuple(x.shape)} and {tuple(y.shape)}: give (N, D) and (M, D), two rows or more"
        )
    (mean_x, covariance_x), (mean_y, covariance_y) = (_moments(features) for features in (x, y))
    trace_of_root = torch.linalg.svdvals(_root(covariance_x) @ _root(covariance_y)).sum()
    distance = (mean_x - mean_y).square().sum() + covariance_x.trace() + covariance_y.trace() - 2 * trace_of_root
    return max(0.0, float(distance))  # rounding can pass 0


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _root(covariance: Tensor) -> Tensor:
    """The positive square root of a covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
