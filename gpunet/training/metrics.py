"""Metrics: how good a model's outputs are, computed on the host in float64; see :data:`METRICS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gpunet.errors import ConfigError
from gpunet.options import did_you_mean
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION


class Metric:
    """Base class of all metrics: a number for the outputs for a whole data set.

    ``name`` is that of its column, ``validation_name``; ``task`` says what it is given, ``maximize`` whether more is
    better, ``percent`` whether it is a share, shown in percent.

    >>> rmse = gn.training.METRICS["rmse"]()
    >>> bool(rmse(np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]]), np.ones(2)) == np.sqrt(2))
    True
    """

    name: ClassVar[str]
    task: ClassVar[str]
    maximize: ClassVar[bool] = True
    percent: ClassVar[bool] = False

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        """The metric of n rows, at least one.

        outputs: float64 (n, K): logits of classes, or of labels; or numbers in the units of the targets.
        targets: int32 (n,), class indices; or float64 (n, K).
        weight: float64 (n,), of the rows; its sum is greater than 0.
        """
        raise NotImplementedError

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` is better than the `best` so far, or the first."""
        return best is None or (score > best if self.maximize else score < best)

    def text(self, score: float) -> str:
        """`score` as it is shown."""
        return f"{score:.2%}" if self.percent else f"{score:.4g}"


class Accuracy(Metric):
    """The share of rows whose largest output is that of their class."""

    name, task, percent = "accuracy", CLASSIFICATION, True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return _share(outputs.argmax(axis=1) == targets, weight)


class BalancedAccuracy(Metric):
    """The mean over the classes that there are of the share of their rows that are predicted to be so."""

    name, task, percent = "balanced_accuracy", CLASSIFICATION, True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        size = int(targets.max()) + 1
        total = np.bincount(targets, weight, size)
        correct = np.bincount(targets, weight * (outputs.argmax(axis=1) == targets), size)
        return float((correct[total > 0] / total[total > 0]).mean())


class R2(Metric):
    """The share of the targets' variance that is explained, the mean over the targets; scikit-learn's ``r2_score``.

    Of a constant target it is 1 if all predictions are right, else 0.
    """

    name, task = "r2", REGRESSION

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        mean = np.average(targets, axis=0, weights=weight)
        residual, total = weight @ (targets - outputs) ** 2, weight @ (targets - mean) ** 2
        varies = total > 0
        explained = 1 - np.divide(residual, total, out=np.where(residual > 0, 1.0, 0.0), where=varies)
        return float(explained.mean())


class MeanAbsoluteError(Metric):
    """The mean absolute error over all targets."""

    name, task, maximize = "mae", REGRESSION, False

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return float(np.average(np.abs(targets - outputs), axis=0, weights=weight).mean())


class RootMeanSquaredError(Metric):
    """The root of the mean squared error of each target, the mean over the targets."""

    name, task, maximize = "rmse", REGRESSION, False

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return float(np.sqrt(np.average((targets - outputs) ** 2, axis=0, weights=weight)).mean())


class MacroF1(Metric):
    """The mean over the labels of F1, the harmonic mean of precision and recall; 0 for a label that never occurs."""

    name, task, percent = "macro_f1", MULTILABEL, True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return float(_f1(*_counts(outputs, targets, weight)).mean())


class MicroF1(Metric):
    """F1 of all labels of all rows together."""

    name, task, percent = "micro_f1", MULTILABEL, True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return float(_f1(*(count.sum(keepdims=True) for count in _counts(outputs, targets, weight)))[0])


class SubsetAccuracy(Metric):
    """The share of rows all of whose labels are right."""

    name, task, percent = "subset_accuracy", MULTILABEL, True

    def __call__(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return _share(((outputs > 0) == (targets > 0.5)).all(axis=1), weight)


def _share(right: np.ndarray, weight: np.ndarray) -> float:
    return float(np.average(right, weights=weight))


def _counts(outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each label, twice the true positives, and all positives, predicted and true."""
    predicted, true = outputs > 0, targets > 0.5
    return 2 * (weight @ (predicted & true)), weight @ predicted + weight @ true


def _f1(right: np.ndarray, positives: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(right, positives, out=np.zeros(len(right)), where=positives > 0))


METRICS: dict[str, type[Metric]] = {
    kind.name: kind
    for kind in (
        Accuracy,
        BalancedAccuracy,
        R2,
        RootMeanSquaredError,
        MeanAbsoluteError,
        MacroF1,
        MicroF1,
        SubsetAccuracy,
    )
}
"""By name."""

DEFAULTS = {
    CLASSIFICATION: ("accuracy",),
    REGRESSION: ("r2", "rmse", "mae"),
    MULTILABEL: ("macro_f1", "micro_f1", "subset_accuracy"),
}
"""The metrics of a task, of which the first is monitored."""


def monitoring(name: str, task: str) -> tuple[str, ...] | None:
    """The metrics of a `task` with the option ``metric``, which is monitored, first; None if that is ``auto``."""
    return None if name == "auto" else (name, *(other for other in DEFAULTS[task] if other != name))


def metrics_of(given: Sequence[str | Metric] | str | Metric | None, task: str) -> tuple[Metric, ...]:
    """The metrics that are recorded for a `task`, those `given` first; None: :data:`DEFAULTS`.

    A classification always has its accuracy.

    Raises:
        ConfigError: one is unknown, for another task, or given twice.
    """
    if given is None:
        given = DEFAULTS[task]
    if isinstance(given, (str, Metric)):
        given = [given]
    found = [_metric(one) for one in given]
    if task == CLASSIFICATION and not any(metric.name == "accuracy" for metric in found):
        found.append(Accuracy())
    names = [metric.name for metric in found]
    for metric in found:
        if metric.task != task:
            fitting = ", ".join(name for name, kind in METRICS.items() if kind.task == task)
            raise ConfigError(f"the metric {metric.name} is for {metric.task}, but this is {task}: choose {fitting}")
        if not metric.name.isidentifier() or metric.name == "loss" or names.count(metric.name) > 1:
            raise ConfigError(f"metrics must have different names, other than loss, got {', '.join(names)}")
    if not found:
        raise ConfigError("metrics must name at least one metric, the one that is monitored")
    return tuple(found)


def _metric(given: Any) -> Metric:
    if isinstance(given, Metric):
        return given
    if isinstance(given, str) and given in METRICS:
        return METRICS[given]()
    if isinstance(given, str):
        raise ConfigError(f"metric must be one of {', '.join(METRICS)}; got {given!r}{did_you_mean(given, METRICS)}")
    raise ConfigError(f"a metric is a name or a gpunet.training.Metric, got {type(given).__name__}")
