"""Figures that say how good a classifier is."""

from __future__ import annotations

import math
from statistics import NormalDist

from gpunet.backend import Array, backend_of
from gpunet.errors import ConfigError, ShapeError


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion, as fractions ``(low, high)``, each between 0 and 1.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22 (1927). Unlike the normal approximation it holds for accuracies near 1.

    Args:
        correct: images classified rightly.
        total: all images.
        confidence: how often such an interval contains the true accuracy.

    Raises:
        ConfigError: not ``0 <= correct <= total``, `total` is 0, or `confidence` is not between 0 and 1.
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
    # at 0 and `total` the bound is 0 and 1 exactly, which rounding would miss
    low = 0.0 if correct == 0 else (centre - half_width) / scale
    high = 1.0 if correct == total else (centre + half_width) / scale
    return low, high


def confusion_matrix(labels: Array, predictions: Array, classes: int) -> Array:
    """How often each class was taken for each.

    Args:
        labels: the true classes, shape (N,), integers from 0 to `classes` - 1.
        predictions: the predicted classes, of the same shape, on the same device.
        classes: the number of classes C.

    Returns:
        Counts, shape (C, C), int64: row, true class; column, predicted class.

    Raises:
        ShapeError: the arrays are not one-dimensional and of the same length.
        ConfigError: they are not integers from 0 to `classes` - 1.
        DeviceError: they live on different devices.
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
    return xp.bincount(cells, minlength=classes * classes).reshape(classes, classes)
