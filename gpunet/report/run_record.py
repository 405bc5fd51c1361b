"""The record of a run: the contents of its folder, and the results of its model on one split of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.report.metrics import ClassRow, class_rows, confusion_matrix
from gpunet.training.history import Record


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run folder."""

    folder: Path
    kind: str
    config: Mapping[str, Mapping[str, Any]]
    """Section -> option -> value."""
    defaults: Mapping[str, Mapping[str, Any]]
    """The same for the preset ``default``."""
    history: list[Record]
    """One record per finished epoch; for a hybrid, with its ``stage``."""
    result: Mapping[str, Any] | None
    """``result.json``; None while the run is not finished."""
    environment: Mapping[str, Any] | None
    """``environment.json``; None where there is none."""
    parameters: int
    best_validation: float | None
    """The validation accuracy, a fraction, recorded with the saved weights; None for other tasks."""
    chosen: str
    """Which weights are saved, such as ``weights of epoch 18``."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def seconds(self) -> float:
        """Time of all epochs, validation included."""
        return sum(float(record["seconds"]) for record in self.history)

    @property
    def options(self) -> dict[str, Any]:
        """All options by name; names are unique across sections."""
        return {name: value for section in self.config.values() for name, value in section.items()}


@dataclass(frozen=True, eq=False)
class SplitResult:
    """A model's predictions for one split of its data set."""

    split: str
    """``validation`` or ``test``."""
    dataset: Dataset
    loss: float
    probabilities: np.ndarray
    """(n, classes); for a regression, the numbers that are predicted (n, K)."""

    @cached_property
    def predictions(self) -> np.ndarray:
        """The most probable class of each image, (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each prediction is correct, bool (n,)."""
        return np.asarray(self.predictions == self.dataset.labels)

    @property
    def correct(self) -> int:
        return int(self.right.sum())

    @property
    def total(self) -> int:
        return len(self.dataset)

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def classes(self) -> list[ClassRow]:
        """The metrics of each class, without the matrix, which is large for many classes."""
        labels, classes = self.dataset.labels, self.dataset.classes
        counted = (labels[self.right], labels, self.predictions)
        hits, support, predicted = (np.bincount(found, minlength=classes) for found in counted)
        return class_rows(hits, support, predicted)

    @cached_property
    def matrix(self) -> np.ndarray:
        """The confusion matrix: true class (row), predicted class (column)."""
        found: np.ndarray = confusion_matrix(self.dataset.labels, self.predictions, self.dataset.classes)
        return found
