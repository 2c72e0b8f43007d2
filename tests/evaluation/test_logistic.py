"""Logistic regression against scikit-learn's, C by C."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from soda_fast.evaluation.logistic import fit_logistic, logistic_accuracies

IMAGES, LABELS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
ORDER = torch.randperm(len(IMAGES), generator=torch.Generator().manual_seed(0))
FEATURES, LABELS = IMAGES[ORDER] / 16, LABELS[ORDER]
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = FEATURES[:400], LABELS[:400], FEATURES[600:1400], LABELS[600:1400]


def test_equals_scikit_learn_for_each_strength() -> None:
    strengths = [1e-6, 1e-3, 1e-2, 0.1, 1.0, 10.0]
    together = fit_logistic(TRAIN, TRAIN_LABELS, 10, strengths, tolerance=1e-8)
    accuracies = logistic_accuracies(together, TEST, TEST_LABELS)
    for c, weight, accuracy in zip(strengths, together, accuracies.tolist(), strict=True):
        judge = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(TRAIN.numpy(), TRAIN_LABELS.numpy())
        np.testing.assert_allclose(weight[:-1].T.numpy(), judge.coef_, atol=2e-4 * (1 + np.abs(judge.coef_).max()))
        assert abs(accuracy - judge.score(TEST.numpy(), TEST_LABELS.numpy())) <= 1.5 / len(TEST)
    assert accuracies.max() > 0.92


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_the_scale_of_features_does_not_matter(scale: float) -> None:
    """C grows as the square of what features shrink by: the same problem, and the same classifiers."""
    strengths = [1e-3, 0.1, 10.0]
    expected = fit_logistic(TRAIN, TRAIN_LABELS, 10, strengths)
    scaled = fit_logistic(TRAIN.double() * scale, TRAIN_LABELS, 10, [c / scale**2 for c in strengths])
    scaled[:, :-1] *= scale
    torch.testing.assert_close(scaled, expected)


def test_strengths_together_equal_each_alone() -> None:
    strengths = [1e-3, 0.1, 10.0]
    together = fit_logistic(TRAIN, TRAIN_LABELS, 10, strengths, tolerance=1e-8)
    for c, weight in zip(strengths, together, strict=True):
        (alone,) = fit_logistic(TRAIN, TRAIN_LABELS, 10, [c], tolerance=1e-8)
        torch.testing.assert_close(weight, alone, atol=1e-3, rtol=1e-3)


def test_separable_data_without_regularisation_ends() -> None:
    features = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    labels = torch.tensor([0, 0, 1, 1])
    weights = fit_logistic(features, labels, 2, [1e10])
    assert torch.isfinite(weights).all()
    assert logistic_accuracies(weights, features, labels).tolist() == [1.0]


def test_a_class_without_images() -> None:
    kept = TRAIN_LABELS != 3
    weights = fit_logistic(TRAIN[kept], TRAIN_LABELS[kept], 10, [1.0], tolerance=1e-8)
    judge = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(TRAIN[kept].numpy(), TRAIN_LABELS[kept].numpy())
    expected = judge.score(TEST.numpy(), TEST_LABELS.numpy())
    assert abs(logistic_accuracies(weights, TEST, TEST_LABELS).item() - expected) <= 2.5 / len(TEST)
