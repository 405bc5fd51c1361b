"""Metrics, held to SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from gpunet.errors import ConfigError, ShapeError
from gpunet.training.metrics import confusion_matrix, wilson_interval


def test_wilson_interval_by_hand() -> None:
    # p = 1/2, n = 4, z = 1.959964: centre 1/2, half width z / (2 sqrt(n + z^2)) = 1.959964 / (2 * 2.800260) = 0.349961
    low, high = wilson_interval(2, 4)
    assert low == pytest.approx(0.5 - 0.349961, abs=2e-6)
    assert high == pytest.approx(0.5 + 0.349961, abs=2e-6)


@given(
    total=st.integers(1, 10**6),
    share=st.floats(0, 1),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]),
)
@example(total=10_000, share=0.0, confidence=0.95)
@example(total=10_000, share=1.0, confidence=0.95)
@example(total=1, share=1.0, confidence=0.95)
@settings(max_examples=200)
def test_wilson_interval_is_scipys(total: int, share: float, confidence: float) -> None:
    correct = round(share * total)
    expected = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(correct, total, confidence)
    # a difference of two numbers up to 1: the error is absolute
    assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)
    assert 0 <= low <= correct / total <= high <= 1


@pytest.mark.parametrize(("correct", "total"), [(-1, 10), (11, 10), (0, 0)])
def test_wilson_interval_refuses_impossible_counts(correct: int, total: int) -> None:
    with pytest.raises(ConfigError, match=f"got correct {correct} and total {total}"):
        wilson_interval(correct, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_wilson_interval_refuses_impossible_confidence(confidence: float) -> None:
    with pytest.raises(ConfigError, match="confidence must be greater than 0 and less than 1"):
        wilson_interval(1, 2, confidence)


def test_confusion_matrix_by_hand() -> None:
    labels = np.array([0, 0, 1, 2, 2, 2], np.uint8)
    predictions = np.array([0, 1, 1, 2, 0, 2])
    matrix = confusion_matrix(labels, predictions, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert matrix.dtype == np.int64


@given(classes=st.integers(2, 300), size=st.integers(0, 500), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_confusion_matrix_is_scikit_learns(classes: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.uint16)
    predictions = rng.integers(0, classes, size)
    matrix = confusion_matrix(labels, predictions, classes)
    if size:  # scikit-learn refuses an empty set, and warns about a single class
        np.testing.assert_array_equal(matrix, sklearn_confusion_matrix(labels, predictions, labels=range(classes)))
    assert matrix.shape == (classes, classes) and matrix.sum() == size


def test_confusion_matrix_does_not_overflow_small_labels() -> None:
    labels = np.full(3, 200, np.uint8)
    matrix = confusion_matrix(labels, labels, 201)
    assert matrix[200, 200] == 3


def test_confusion_matrix_refuses_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"got \(2,\) and \(3,\)"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), 2)
    with pytest.raises(ShapeError, match=r"got \(2, 1\) and \(2, 1\)"):
        confusion_matrix(np.zeros((2, 1), int), np.zeros((2, 1), int), 2)


@pytest.mark.parametrize("wrong", [-1, 2])
def test_confusion_matrix_refuses_labels_out_of_range(wrong: int) -> None:
    good, bad = np.array([0, 1]), np.array([0, wrong])
    with pytest.raises(ConfigError, match="labels must lie between 0 and 1"):
        confusion_matrix(bad, good, 2)
    with pytest.raises(ConfigError, match="predictions must lie between 0 and 1"):
        confusion_matrix(good, bad, 2)


def test_confusion_matrix_refuses_floats() -> None:
    with pytest.raises(ConfigError, match="predictions must be integers, got float64"):
        confusion_matrix(np.array([0]), np.array([0.0]), 2)
