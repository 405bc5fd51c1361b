"""Figures of a sweep: the accuracy for each value that varies, mean and spread over the seeds, and each seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpunet.errors import DataError
from gpunet.report.canvas import BLUE, GREEN, ORANGE, TEN, VERMILLION, PathLike, axes_or_new, page
from gpunet.report.figures import draw_class_metrics, draw_confusion
from gpunet.training.metrics import Accuracy, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, *TEN)
_MARKERS = "osD^vP"
_COLUMNS = 2


@dataclass(frozen=True)
class Panel:
    """Accuracies, as fractions, or another metric for several values: one panel of a figure."""

    title: str
    values: Sequence[str]
    """The compared values, from top to bottom."""
    series: Sequence[tuple[str, Sequence[Sequence[float]]]]
    """(name, for each value the accuracies of the seeds; none if all failed). A single series needs no name."""
    metric: Metric = field(default_factory=Accuracy)


@dataclass(frozen=True)
class Scatter:
    """Accuracies, as fractions, over a number sampled from a range."""

    title: str
    name: str
    points: Sequence[tuple[float, float]]
    log: bool
    metric: Metric = field(default_factory=Accuracy)


def plot_sweep(panels: Sequence[Panel | Scatter], path: PathLike | None = None) -> Figure:
    """A figure of the `panels`, one below the other.

    Raises:
        DataError: there are none.
        OutputError: `path` cannot be written.
    """
    if not panels:
        raise DataError("the sweep has no finished trial, so there is nothing to draw")
    heights = [_height(panel) for panel in panels]
    with page(path, 7.5, sum(heights)) as figure:
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            draw_panel(panel, axes)
    return figure


def plot_gallery(
    panels: Sequence[Panel | Scatter],
    path: PathLike | None,
    title: str,
    *,
    confusion: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """All panels in two columns and, with `confusion`, below them the confusion matrix and the per-class metrics.

    Raises: as :func:`plot_sweep`, and ShapeError as :func:`gpunet.report.figures.plot_confusion_matrix`.
    """
    if not panels and confusion is None:
        raise DataError("no sweep has a finished trial, so there is nothing to draw")
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    heights = [max(map(_height, row)) for row in rows] + ([] if confusion is None else [6.6])
    with page(path, 14, sum(heights) + 0.5) as figure:
        figure.suptitle(title, fontsize=13)
        parts: list[SubFigure] = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        for part, row in zip(parts, rows, strict=False):
            grid = part.subplots(1, _COLUMNS, squeeze=False)[0]
            for axes, panel in zip(grid, row, strict=False):
                draw_panel(panel, axes)
            for axes in grid[len(row) :]:
                axes.set_axis_off()
        if confusion is not None:
            left, right = parts[-1].subplots(1, 2)
            draw_confusion(confusion, class_names, left)
            draw_class_metrics(confusion, class_names, right)
            handles, labels = right.get_legend_handles_labels()
            right.legend(handles[::-1], labels[::-1], loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=3)
    return figure


def draw_panel(panel: Panel | Scatter, ax: Axes | None = None) -> Axes:
    """One panel: filled markers and error bars are mean and standard deviation over the seeds, dots single seeds."""
    axes = axes_or_new(ax)
    if isinstance(panel, Scatter):
        x, y = np.array(panel.points, np.float64).reshape(-1, 2).T
        axes.plot(x, _factor(panel) * y, "o", color=BLUE, alpha=0.7)
        axes.set_xscale("log" if panel.log else "linear")
        axes.set_xlabel(panel.name)
        axes.set_ylabel(_quantity(panel))
    else:
        _draw_values(axes, panel)
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return axes


def _factor(panel: Panel | Scatter) -> int:
    return 100 if panel.metric.percent else 1


def _quantity(panel: Panel | Scatter) -> str:
    return f"validation {panel.metric.name.replace('_', ' ')}{' (%)' if panel.metric.percent else ''}"


def _draw_values(axes: Axes, panel: Panel) -> None:
    count = len(panel.series)
    places = np.arange(len(panel.values), dtype=np.float64)
    for number, (name, accuracies) in enumerate(panel.series):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        heights = places + (number - (count - 1) / 2) * 0.8 / count
        found = [
            (height, [_factor(panel) * v for v in group]) for height, group in zip(heights, accuracies, strict=True)
        ]
        trained = [(height, group) for height, group in found if group]
        axes.errorbar(
            [statistics.fmean(group) for _, group in trained],
            [height for height, _ in trained],
            xerr=[statistics.stdev(group) if len(group) > 1 else math.nan for _, group in trained],
            fmt=marker,
            color=colour,
            capsize=3,
            markersize=6,
            label=name or None,
        )
        dots = [(value, height) for height, group in trained for value in group]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", color=colour, markersize=3, alpha=0.6, markerfacecolor="white")
        for height, group in found:
            if not group:
                place = axes.get_yaxis_transform()
                axes.text(0.02, height, "failed", transform=place, va="center", color=colour, fontsize=8)
    axes.set_yticks(places, panel.values)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_xlabel(_quantity(panel))
    if count > 1:
        axes.legend(fontsize=8)


def _height(panel: Panel | Scatter) -> float:
    if isinstance(panel, Scatter):
        return 3.2
    return 1.1 + 0.36 * len(panel.values) * max(1.0, 0.55 * len(panel.series))
