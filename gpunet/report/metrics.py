"""Metrics of classifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from gpunet.backend import Array, backend_of
from gpunet.errors import ConfigError, ShapeError

MOST_CLASSES = 1000
"""Classes of the largest confusion matrix that is shown: its size grows with their square."""


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as fractions ``(low, high)``, each between 0 and 1.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927). Unlike the normal approximation it is valid for accuracies near 1.

    Args:
        correct: number of images classified correctly.
        total: number of images.
        confidence: the probability that such an interval contains the true accuracy.

    Raises:
        ConfigError: not ``0 <= correct <= total``, `total` is 0, or `confidence` is not between 0 and 1.

    >>> from gpunet.report.metrics import wilson_interval
    >>> [round(bound, 3) for bound in wilson_interval(50, 100)]
    [0.404, 0.596]
    >>> wilson_interval(100, 100)[1]
    1.0
    """
    if total < 1 or not 0 <= correct <= total:
        raise ConfigError(f"expected 0 <= correct <= total and total >= 1, got correct {correct} and total {total}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be greater than 0 and less than 1, got {confidence!r}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / total
    centre = share + z * z / (2 * total)
    half_width = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # for 0 and `total` correct, the bounds are exactly 0 and 1, which rounding errors would miss
    low = 0.0 if correct == 0 else (centre - half_width) / scale
    high = 1.0 if correct == total else (centre + half_width) / scale
    return low, high


def confusion_matrix(labels: Array, predictions: Array, classes: int) -> Array:
    """How often each class was predicted as each class.

    Args:
        labels: the true classes, shape (N,), integers from 0 to `classes` - 1.
        predictions: the predicted classes, of the same shape, on the same device.
        classes: the number of classes C.

    Returns:
        Counts, shape (C, C), int64: row, true class; column, predicted class.

    Raises:
        ShapeError: the arrays are not one-dimensional and of the same length.
        ConfigError: they are not integers from 0 to `classes` - 1.
        DeviceError: they are on different devices.

    >>> from gpunet.report.metrics import confusion_matrix
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ShapeError(
            f"expected labels and predictions of the same shape (N,), got {labels.shape} and {predictions.shape}"
        )
    xp = backend_of(labels, predictions).xp
    for name, array in (("labels", labels), ("predictions", predictions)):
        if array.dtype.kind not in "iu":
            raise ConfigError(f"{name} must be integers, got {array.dtype}")
        if array.size and not (int(array.min()) >= 0 and int(array.max()) < classes):
            raise ConfigError(
                f"{name} must lie between 0 and {classes - 1}, got values from {array.min()} to {array.max()}"
            )
    cells = labels.astype(xp.int64) * classes + predictions.astype(xp.int64)
    counts: Array = xp.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return counts


def square_confusion(matrix: np.ndarray, class_names: Sequence[str] | None = None) -> np.ndarray:
    """`matrix` as an array; ShapeError unless it is square, with one row per class name."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ShapeError(f"expected a square confusion matrix (true, predicted), got shape {matrix.shape}")
    if class_names is not None and len(class_names) != len(matrix):
        raise ShapeError(f"a confusion matrix of {len(matrix)} classes does not fit {len(class_names)} class names")
    return matrix


class ClassRow(NamedTuple):
    """A classifier's metrics for one class; 0 where a denominator is 0."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


def per_class_table(matrix: np.ndarray) -> list[ClassRow]:
    """Precision, recall, F1 and number of images of each class, from a confusion matrix (true, predicted).

    Raises:
        ShapeError: `matrix` is not square.

    >>> from gpunet.report.metrics import per_class_table
    >>> for row in per_class_table(np.array([[3, 1], [0, 4]])):
    ...     print(row.label, row.precision, row.recall, row.support)
    0 1.0 0.75 4
    1 0.8 1.0 4
    """
    counts = square_confusion(matrix)
    return class_rows(counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))


def class_rows(hits: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> list[ClassRow]:
    """The same from the number of correct predictions, images and predictions of each class, (classes,)."""
    return [
        ClassRow(
            label,
            precision=correct / found if found else 0.0,
            recall=correct / images if images else 0.0,
            f1=2 * correct / (images + found) if images + found else 0.0,
            support=int(images),
        )
        for label, (correct, images, found) in enumerate(
            zip(hits.tolist(), support.tolist(), predicted.tolist(), strict=True)
        )
    ]


@dataclass(frozen=True)
class Calibration:
    """A classifier's accuracy compared with its confidence, in bins of equal width over (0, 1].

    The arrays have length M, the number of bins; bin m holds the images with confidence in (m/M, (m + 1)/M].
    """

    counts: np.ndarray
    """Images in each bin, int64."""
    accuracy: np.ndarray
    """Fraction of correct predictions in each bin, float64; NaN if the bin is empty."""
    confidence: np.ndarray
    """Mean confidence in each bin, float64; NaN if the bin is empty."""

    @property
    def error(self) -> float:
        """The expected calibration error, the sum over the bins of n_m / n * abs(accuracy_m - confidence_m)."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((self.counts[filled] * gaps).sum() / self.counts.sum())


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Calibration:
    """Calibration: confidence, the largest class probability of an image, compared with accuracy.

    M. P. Naeini, G. F. Cooper and M. Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning, AAAI
    2015; for networks, with 15 bins: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On calibration of modern neural
    networks, ICML 2017.

    Args:
        labels: the true classes, shape (N,), N >= 1.
        probabilities: of each class, shape (N, C), on the host.
        bins: the number of bins.

    Raises:
        ShapeError: the arrays have inconsistent shapes, or there are no images.
        ConfigError: `bins` is less than 1, or a probability is not between 0 and 1.

    >>> from gpunet.report.metrics import calibration
    >>> found = calibration(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]]), bins=2)
    >>> found.counts, found.accuracy, found.confidence
    (array([0, 2]), array([nan, 0.5]), array([ nan, 0.75]))
    >>> found.error
    0.25
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ShapeError(
            "expected labels (N,) and probabilities (N, C) of at least one image, got shapes "
            f"{labels.shape} and {probabilities.shape}"
        )
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    confidence = probabilities.max(axis=1).astype(np.float64)
    # the sum of a softmax in float32 may exceed 1 by rounding
    if not (probabilities.min() >= 0 and confidence.max() <= 1 + 1e-5):
        raise ConfigError("probabilities must lie between 0 and 1")
    right = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(which, weights=values, minlength=bins)
        return np.asarray(np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0))

    return Calibration(counts, mean(right.astype(np.float64)), mean(confidence))


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same images."""

    only_first: int
    """Images that only the first classifies correctly."""
    only_second: int
    p_value: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> PairedComparison:
    """McNemar's exact test of whether two classifiers have the same accuracy on the same images.

    Only discordant images count, those that exactly one of the two classifies correctly; under the null hypothesis,
    that is either of them with probability 1/2. Two-sided, by the binomial distribution.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
    Psychometrika 12 (1947).

    Args:
        first_right, second_right: whether each image is classified correctly, bool (N,), in the same order.

    Raises:
        ShapeError: the arrays are not one-dimensional and of the same length.

    >>> from gpunet.report.metrics import mcnemar
    >>> first, second = np.array([True] * 5 + [True, False]), np.array([False] * 5 + [True, False])
    >>> mcnemar(first, second)  # 2 * 2**-5
    PairedComparison(only_first=5, only_second=0, p_value=0.0625)
    """
    if first_right.ndim != 1 or first_right.shape != second_right.shape:
        raise ShapeError(
            f"expected two arrays of the same shape (N,), got {first_right.shape} and {second_right.shape}"
        )
    from scipy.stats import binomtest

    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedComparison(only_first, only_second, p_value)


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`points` (n, d) projected onto two principal components, (n, 2), and the fractions of variance of these, (2,).

    >>> from gpunet.report.metrics import principal_plane
    >>> plane, shares = principal_plane(np.float64([[0, 0, 1], [1, 0, 1], [2, 0, 1]]))  # on a line
    >>> plane[:, 0], shares.round(5)
    (array([-1.,  0.,  1.]), array([1., 0.]))
    """
    plane, shares = np.zeros((len(points), 2)), np.zeros(2)
    n, d = points.shape
    if not np.ptp(points, axis=0).any():
        return plane, shares
    from sklearn.decomposition import PCA

    count = min(2, n, d)
    # scikit-learn chooses the signs so that the entry of largest magnitude is positive
    analysis = PCA(count, svd_solver="covariance_eigh" if d <= n else "full")
    plane[:, :count] = analysis.fit_transform(points)
    shares[:count] = analysis.explained_variance_ratio_
    return plane, shares
