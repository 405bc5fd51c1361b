"""Losses: functions of a batch's outputs and targets that return the mean loss and its gradient."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_number
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION


class Loss(Protocol):
    """What is minimised. A loss keeps no state, and asks the host for nothing.

    >>> def absolute_error(outputs, targets, sample_weight=None):
    ...     return abs(outputs - targets).mean(), np.sign(outputs - targets) / outputs.size
    >>> absolute_error(np.float64([[1, 5]]), np.float64([[1, 3]]))
    (np.float64(1.0), array([[0. , 0.5]]))
    """

    task: ClassVar[str]
    """One of :data:`gpunet.tasks.TASKS`, which says what the targets are."""

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """(loss, gradient) for outputs (N, K): a 0-d array on the device, and the gradient by `outputs`, (N, K).

        Args:
            targets: integers (N,) for a loss of classes, else numbers (N, K) of the dtype of `outputs`.
            sample_weight: (N,), of that dtype: the mean is then sum(weight * loss) / sum(weight).
        """


class CrossEntropyLoss:
    """Mean cross-entropy of the softmax of logits, with label smoothing (Szegedy et al., 2016) and class weights.

    Args:
        label_smoothing: probability mass spread evenly over all classes, in [0, 1).
        weight: class weights, (classes,), on the device of the logits; or None.

    >>> loss, gradient = gn.nn.CrossEntropyLoss()(np.zeros((1, 4), np.float32), np.array([2]))
    >>> round(float(np.exp(loss)), 5)  # each of four classes has probability 1/4
    4.0
    >>> gradient
    array([[ 0.25,  0.25, -0.75,  0.25]], dtype=float32)
    """

    task: ClassVar[str] = CLASSIFICATION

    def __init__(self, *, label_smoothing: float = 0.0, weight: Array | None = None) -> None:
        self.label_smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1, high_open=True)
        self.weight = weight

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """(loss, gradient) for logits (N, classes) and integer labels (N,); loss is a 0-d array on the device."""
        return ops.softmax_cross_entropy(
            outputs,
            targets,
            label_smoothing=self.label_smoothing,
            weight=self.weight,
            sample_weight=sample_weight,
        )


class FocalLoss:
    """Cross-entropy that counts rows less the surer they are: (1 - p)**gamma times it, p the label's probability.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, 2017, here for the softmax of classes.

    Args:
        gamma: at least 0; with 0 it is the cross-entropy.
        weight: class weights, (classes,), on the device of the logits; or None.

    >>> loss, gradient = gn.nn.FocalLoss(gamma=1.0)(np.zeros((1, 2), np.float32), np.array([0]))
    >>> round(float(loss / np.log(2)), 5)  # (1 - 1/2) * log(2)
    0.5
    """

    task: ClassVar[str] = CLASSIFICATION

    def __init__(self, *, gamma: float = 2.0, weight: Array | None = None) -> None:
        self.gamma = check_number("gamma", gamma, low=0)
        self.weight = weight

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """As :class:`CrossEntropyLoss`; the mean divides by the sum of the labels' weights."""
        return ops.softmax_cross_entropy(
            outputs, targets, weight=self.weight, sample_weight=sample_weight, gamma=self.gamma
        )


class BCEWithLogitsLoss:
    """Mean binary cross-entropy of the sigmoid of each output: several labels, each of which may hold or not.

    Args:
        pos_weight: the weight of a target of 1 for each label, (labels,), on the device of the outputs; or None.

    >>> loss, gradient = gn.nn.BCEWithLogitsLoss()(np.zeros((1, 2), np.float32), np.float32([[0, 1]]))
    >>> round(float(np.exp(loss)), 5)  # both labels have probability 1/2
    2.0
    >>> gradient
    array([[ 0.25, -0.25]], dtype=float32)
    """

    task: ClassVar[str] = MULTILABEL

    def __init__(self, *, pos_weight: Array | None = None) -> None:
        self.pos_weight = pos_weight

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """(loss, gradient) for outputs and targets from 0 to 1, both (N, labels)."""
        return ops.binary_cross_entropy_with_logits(
            outputs, targets, pos_weight=self.pos_weight, sample_weight=sample_weight
        )


class MSELoss:
    """Mean squared error.

    >>> gn.nn.MSELoss()(np.float32([[1, 5]]), np.float32([[1, 3]]))  # (0 + 4) / 2
    (array(2., dtype=float32), array([[0., 2.]], dtype=float32))
    """

    task: ClassVar[str] = REGRESSION

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """(loss, gradient) for outputs and targets, both (N, K)."""
        return ops.mse_loss(outputs, targets, sample_weight=sample_weight)


class HuberLoss:
    """Mean of half the squared error up to `delta`, and linear in the error beyond: outliers count for less.

    >>> gn.nn.HuberLoss()(np.float32([[1, 5]]), np.float32([[1, 3]]))  # (0 + 1.5) / 2
    (array(0.75, dtype=float32), array([[0. , 0.5]], dtype=float32))
    """

    task: ClassVar[str] = REGRESSION

    def __init__(self, *, delta: float = 1.0) -> None:
        self.delta = check_number("delta", delta, low=0, low_open=True)

    def __call__(self, outputs: Array, targets: Array, sample_weight: Array | None = None) -> tuple[Any, Array]:
        """(loss, gradient) for outputs and targets, both (N, K)."""
        return ops.huber_loss(outputs, targets, delta=self.delta, sample_weight=sample_weight)


LOSSES: dict[str, type] = {
    "cross_entropy": CrossEntropyLoss,
    "focal": FocalLoss,
    "bce_with_logits": BCEWithLogitsLoss,
    "mse": MSELoss,
    "huber": HuberLoss,
}
"""By name."""


def balanced_class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights that balance the classes: n / (classes * n_class), scikit-learn's "balanced"; float64 (classes,).

    Only classes with images count. The weight of a class without any is 0: it has no row of its own, but label
    smoothing would bring its weight into every other row.

    Args:
        labels: integers from 0 to `classes` - 1, (n,), on the host.

    >>> gn.nn.balanced_class_weights(np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]), 3)
    array([1., 1., 1.])
    >>> gn.nn.balanced_class_weights(np.array([0, 1, 1, 1, 1]), 2)  # 5 / (2 * 1), 5 / (2 * 4)
    array([2.5  , 0.625])
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
