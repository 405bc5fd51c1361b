"""The loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_number


class SoftmaxCrossEntropy:
    """Mean cross-entropy of the softmax of logits, with label smoothing (Szegedy et al., 2016) and class weights.

    Args:
        label_smoothing: probability mass spread evenly over all classes, in [0, 1).
        weight: class weights, (classes,), on the device of the logits; or None.
    """

    def __init__(self, *, label_smoothing: float = 0.0, weight: Array | None = None) -> None:
        self.label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1, high_open=True)
        self.weight = weight

    def __call__(self, logits: Array, labels: Array) -> tuple[Any, Array]:
        """(loss, dlogits) for logits (N, classes) and integer labels (N,); loss is a 0-d array on the device."""
        loss, dlogits = ops.softmax_cross_entropy(
            logits, labels, label_smoothing=self.label_smoothing, weight=self.weight
        )
        return loss, dlogits


def balanced_class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights that balance the classes: n / (classes * n_class), scikit-learn's "balanced"; float64 (classes,).

    Only classes with images count. The weight of a class without any is 0: it has no row of its own, but label
    smoothing would bring its weight into every other row.

    Args:
        labels: integers from 0 to `classes` - 1, (n,), on the host.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
