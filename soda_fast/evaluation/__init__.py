"""Judging frozen features by named protocols. Meets the model through tensors and callables only."""

from soda_fast.evaluation.knn import knn_accuracy
from soda_fast.evaluation.linear_probe import linear_probe

__all__ = ["knn_accuracy", "linear_probe"]
