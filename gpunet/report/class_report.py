"""The table of a classifier's metrics for each class, as text and as a dictionary, with scikit-learn's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.dlpack import on_host
from gpunet.errors import ConfigError, ShapeError
from gpunet.report.metrics import ClassRow, confusion_matrix, per_class_table

_MEASURES = ("precision", "recall", "f1-score", "support")
_TOTALS = ("accuracy", "macro avg", "weighted avg")


@dataclass(frozen=True)
class ClassReport:
    """Precision, recall and F1 of each class, and over all; its text is the table."""

    rows: list[ClassRow]
    """Of the classes, in their order."""
    class_names: tuple[str, ...]
    accuracy: float
    """Fraction of correct predictions."""

    @property
    def support(self) -> int:
        """The number of images."""
        return sum(row.support for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """By class name, the measures by name; then ``accuracy``, and the means ``macro avg`` (all classes alike) and
        ``weighted avg`` (by their number of images). As ``sklearn.metrics.classification_report(output_dict=True)``.
        """
        table = {name: _named(row) for name, row in zip(self.class_names, self.rows, strict=True)}
        sizes = np.array([row.support for row in self.rows], np.float64)

        def mean(weights: np.ndarray | None) -> dict[str, float]:
            rows = table.values()
            means = {name: np.average([row[name] for row in rows], weights=weights) for name in _MEASURES[:3]}
            return {**{name: float(value) for name, value in means.items()}, "support": float(self.support)}

        return {**table, "accuracy": self.accuracy, "macro avg": mean(None), "weighted avg": mean(sizes)}

    def __str__(self) -> str:
        found = self.to_dict()
        width = max(map(len, (*self.class_names, *_TOTALS)))
        lines = ["".join([" " * width, " ", *(f"{name:>10}" for name in _MEASURES)]), ""]
        for name in self.class_names:
            lines.append(_line(name, width, found[name]))
        lines += ["", f"{'accuracy':>{width}} {self.accuracy:>30.2f}{self.support:>10}"]
        lines += [_line(name, width, found[name]) for name in _TOTALS[1:]]
        return "\n".join(lines)


def classification_report(labels: Any, predictions: Any, class_names: Sequence[str] | None = None) -> ClassReport:
    """The metrics of a classifier for each class; ``print`` shows them as a table.

    Args:
        labels, predictions: true and predicted classes, integers (n,), n >= 1: arrays, tensors or lists.
        class_names: by default 0, 1, 2 and so on, to the largest class that occurs.

    Where a denominator is 0, because a class has no images or no predictions, the measure is 0.

    >>> print(gn.report.classification_report(test.labels, model.predict(test.images)))  # doctest: +SKIP

    Raises:
        ShapeError: the two are not (n,), or there are none.
        ConfigError: they are not class indices that have names, or a name occurs twice or is that of a total.
    """
    truth, found = (np.asarray(on_host(values)) for values in (labels, predictions))
    if truth.ndim != 1 or truth.size == 0:
        raise ShapeError(f"expected labels (n,), n >= 1, got shape {truth.shape}")
    if class_names is None:
        largest = max(int(array.max()) for array in (truth, found) if array.dtype.kind in "iu" and array.size)
        class_names = [str(number) for number in range(largest + 1)]
    names = tuple(class_names)
    if len(set(names)) != len(names) or set(names) & set(_TOTALS):
        raise ConfigError(f"class_names must be different, and none of {', '.join(_TOTALS)}, got {names!r:.200}")
    matrix = confusion_matrix(truth, found, len(names))
    return ClassReport(per_class_table(matrix), names, float(matrix.trace() / matrix.sum()))


def _named(row: ClassRow) -> dict[str, float]:
    return dict(zip(_MEASURES, (row.precision, row.recall, row.f1, float(row.support)), strict=True))


def _line(name: str, width: int, row: dict[str, float]) -> str:
    values = "".join(f"{row[measure]:>10.2f}" for measure in _MEASURES[:3])
    return f"{name:>{width}} {values}{int(row['support']):>10}"
