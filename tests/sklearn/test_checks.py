"""scikit-learn's own checks of estimators."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpunet.sklearn import CNNClassifier, CNNFeatures, HybridClassifier, MLPClassifier, MLPRegressor

_CNN: dict[str, Any] = {"filters": (4,), "device": "cpu", "learning_rate_init": 0.02, "batch_size": 16}
ESTIMATORS = [
    MLPClassifier(device="cpu"),
    MLPRegressor(device="cpu"),
    CNNClassifier(**_CNN),
    HybridClassifier(**_CNN, hidden_layer_sizes=(8,)),
    CNNFeatures(**_CNN),
]
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "other batches, and standardised by rows that all count the same",
}
"""Checks that minibatch SGD cannot meet, with the reason."""


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)
