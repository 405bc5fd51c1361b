"""Figures of models that predict numbers, or several labels: errors of each target, and metrics of each label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.report.canvas import BLUE, GREY, VERMILLION, axes_or_new, page
from gpunet.report.figures import draw_class_rows
from gpunet.report.metrics import ClassRow, class_rows
from gpunet.tasks import REGRESSION
from gpunet.training.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TARGETS = 6
"""Targets with a figure each; a table has all of them."""

_MOST_POINTS = 2000
_BINS = 40


class TargetRow(NamedTuple):
    """How well a target is predicted."""

    name: str
    r2: float
    rmse: float
    mae: float
    bias: float
    """The mean of predicted minus true."""
    mean: float
    deviation: float
    """Of the true values."""


def target_rows(targets: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[TargetRow]:
    """The errors of each target, float64 (n, K)."""
    weight = np.ones(len(targets))
    rows = []
    for column, name in enumerate(names):
        true, predicted = targets[:, [column]], predictions[:, [column]]
        r2, rmse, mae = (METRICS[metric]()(predicted, true, weight) for metric in ("r2", "rmse", "mae"))
        bias = float((predicted - true).mean())
        rows.append(TargetRow(name, r2, rmse, mae, bias, float(true.mean()), float(true.std())))
    return rows


def label_rows(labels: np.ndarray, predictions: np.ndarray) -> list[ClassRow]:
    """Precision, recall, F1 and number of rows of each label, of 0 and 1, (n, K)."""
    true, predicted = labels > 0, predictions > 0
    return class_rows((true & predicted).sum(axis=0), true.sum(axis=0), predicted.sum(axis=0))


def draw_predicted(true: np.ndarray, predicted: np.ndarray, name: str, ax: Axes | None = None) -> Axes:
    """Predicted over true values of a target, (n,), which are equal on the line; of many, evenly spaced ones."""
    axes = axes_or_new(ax)
    some = np.unique(np.linspace(0, len(true) - 1, min(len(true), _MOST_POINTS)).astype(np.int64))
    axes.scatter(true[some], predicted[some], s=9, color=BLUE, alpha=0.5, linewidths=0, rasterized=len(some) > 500)
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    axes.plot(ends, ends, color=GREY, linestyle=":")
    _few_digits(axes)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    axes.set_title(name)
    axes.grid(alpha=0.3)
    return axes


def draw_residuals(true: np.ndarray, predicted: np.ndarray, name: str, ax: Axes | None = None) -> Axes:
    """Histogram of predicted minus true, (n,)."""
    axes = axes_or_new(ax)
    axes.hist(predicted - true, bins=_BINS, color=BLUE)
    axes.axvline(0.0, color=GREY, linestyle=":")
    mean = float((predicted - true).mean())
    axes.axvline(mean, color=VERMILLION, label=f"mean {mean:.3g}")
    _few_digits(axes)
    axes.set_xlabel("predicted - true")
    axes.set_ylabel("rows")
    axes.set_title(name)
    axes.legend()
    return axes


def _few_digits(axes: Axes) -> None:
    """Ticks of large and small numbers share a factor, which stands at the end of the axis: they do not overlap."""
    axes.locator_params(axis="x", nbins=6)
    axes.ticklabel_format(style="sci", scilimits=(-3, 4))


def drawings(dataset: Dataset, predictions: np.ndarray, prefix: str) -> dict[str, Callable[[Path], None]]:
    """Name of a file -> the function that draws it: errors of targets, or metrics of labels."""
    names = dataset.class_names
    if dataset.task != REGRESSION:

        def of_labels(path: Path) -> None:
            with page(path, 7.5, 1.6 + 0.75 * min(len(names), 40)) as figure:
                axes = figure.subplots()
                draw_class_rows(label_rows(dataset.labels, predictions), names, "label", "rows", axes)
                handles, labels = axes.get_legend_handles_labels()
                figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3)

        return {f"{prefix}per_label_metrics.png": of_labels}

    def of_targets(draw: Any) -> Callable[[Path], None]:
        def on(path: Path) -> None:
            shown = names[:MOST_TARGETS]
            with page(path, 3.8 * len(shown), 3.6) as figure:
                for column, axes in enumerate(figure.subplots(1, len(shown), squeeze=False)[0]):
                    draw(dataset.labels[:, column], predictions[:, column], shown[column], axes)

        return on

    return {
        f"{prefix}predicted_and_true.png": of_targets(draw_predicted),
        f"{prefix}residuals.png": of_targets(draw_residuals),
    }
