"""Metrics, held to SciPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support

from gpunet.errors import ConfigError, ShapeError
from gpunet.report.metrics import (
    calibration,
    confusion_matrix,
    mcnemar,
    per_class_table,
    principal_plane,
    wilson_interval,
)
from tests.support import assert_close


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


def test_calibration_by_hand() -> None:
    # four bins: 0.25 and 0.5 are the upper, not the lower ends of theirs
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.3, 0.2, 0], [0.1, 0.4, 0.3, 0.2], [0, 0, 1, 0]])
    found = calibration(np.array([0, 1, 1, 2]), probabilities, bins=4)
    assert found.counts.tolist() == [1, 2, 0, 1]
    np.testing.assert_array_equal(found.accuracy, [1, 0.5, np.nan, 1])
    np.testing.assert_allclose(found.confidence, [0.25, 0.45, np.nan, 1], rtol=1e-15)
    # 1/4 |1 - 0.25| + 2/4 |0.5 - 0.45| + 1/4 |1 - 1|
    assert found.error == pytest.approx(0.1875 + 0.025, rel=1e-12)


def test_a_calibrated_classifier_has_no_error() -> None:
    # sure by 0.75, and right in three of four cases
    found = calibration(np.array([0, 0, 0, 1]), np.tile([0.75, 0.25], (4, 1)), bins=10)
    assert found.error == 0


@pytest.mark.parametrize("bins", [1, 15, 40])
def test_calibration_error_image_by_image(bins: int) -> None:
    rng = np.random.default_rng(bins)
    scores = rng.gamma(0.5, size=(500, 6)).astype(np.float32)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 6, 500)
    groups: dict[int, list[tuple[bool, float]]] = {}
    for label, row in zip(labels.tolist(), probabilities.tolist(), strict=True):
        inside = next(m for m in range(bins) if max(row) <= (m + 1) / bins or m == bins - 1)
        groups.setdefault(inside, []).append((row.index(max(row)) == label, max(row)))
    expected = sum(
        len(group) / 500 * abs(sum(right for right, _ in group) - sum(sure for _, sure in group)) / len(group)
        for group in groups.values()
    )
    assert calibration(labels, probabilities, bins).error == pytest.approx(expected, rel=1e-9)


def test_calibration_refuses_what_does_not_fit() -> None:
    good = np.array([[0.5, 0.5]])
    for labels, probabilities in ((np.zeros(2, int), good), (np.zeros(0, int), good[:0]), (np.zeros(1, int), good[0])):
        with pytest.raises(ShapeError, match=r"expected labels \(N,\) and probabilities \(N, C\)"):
            calibration(labels, probabilities)
    with pytest.raises(ConfigError, match="bins must be at least 1, got 0"):
        calibration(np.zeros(1, int), good, 0)
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match="probabilities must lie between 0 and 1"):
            calibration(np.zeros(1, int), np.array([[0.5, wrong]]))


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (3, 9), (9, 3), (7, 7), (60, 35)])
def test_mcnemar_by_the_binomial_distribution(only_first: int, only_second: int) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True, False, True])
    second = np.array([False] * only_first + [True] * only_second + [True, False, True])
    found = mcnemar(first, second)
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_refuses_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"two arrays of the same shape \(N,\), got \(2,\) and \(3,\)"):
        mcnemar(np.ones(2, bool), np.ones(3, bool))


MATRIX = np.array([[8, 1, 1], [0, 5, 0], [4, 2, 4]])


class TestPerClassTable:
    def test_by_hand(self) -> None:
        table = per_class_table(MATRIX)
        assert [row.label for row in table] == [0, 1, 2] and [row.support for row in table] == [10, 5, 10]
        assert table[0].precision == 8 / 12 and table[0].recall == 8 / 10 and table[0].f1 == 16 / 22
        assert table[1].precision == 5 / 8 and table[1].recall == 1.0
        assert table[2] == (2, 4 / 5, 4 / 10, 8 / 15, 10)

    @pytest.mark.parametrize("seed", range(5))
    def test_against_scikit_learn(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labels, predictions = rng.integers(0, 7, (2, 60))
        labels[labels == 3] = 4  # a class without images
        predictions[predictions == 5] = 6  # and one that is never predicted
        matrix = np.zeros((8, 8), np.int64)  # and one without both
        np.add.at(matrix, (labels, predictions), 1)
        expected = precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=0.0)
        table = per_class_table(matrix)
        for place, name in enumerate(("precision", "recall", "f1", "support")):
            assert_close(np.array([getattr(row, name) for row in table], float), expected[place].astype(float))

    @pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0))])
    def test_not_square(self, matrix: np.ndarray) -> None:
        with pytest.raises(ShapeError, match=r"expected a square confusion matrix \(true, predicted\), got shape \("):
            per_class_table(matrix)


def test_plane_against_scikit_learn() -> None:
    points = np.random.default_rng(0).standard_normal((200, 6)) * np.array([1, 5, 0.3, 3, 0.1, 2]) + 7
    plane, shares = principal_plane(points)
    oracle = PCA(2, svd_solver="full").fit(points)
    expected = oracle.transform(points)
    signs = np.sign(oracle.components_[range(2), np.abs(oracle.components_).argmax(axis=1)])
    assert_close(plane, expected * signs, terms=200)
    assert_close(shares, oracle.explained_variance_ratio_, terms=200)
