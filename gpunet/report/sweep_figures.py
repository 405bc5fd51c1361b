"""Figures of a sweep: the accuracy for each value that varies, mean and spread over the seeds, and each seed.

The best mean is a star; values whose bar lies wholly on the worse side of that of the best are pale. Values so much
worse that they would squeeze all others into a line are written at the edge instead of being drawn.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.errors import DataError
from gpunet.report.canvas import BLUE, GREEN, GREY, ORANGE, TEN, VERMILLION, PathLike, axes_or_new, legend_above, page
from gpunet.report.figures import draw_class_metrics, draw_confusion
from gpunet.training.metrics import Accuracy, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, *TEN)
_MARKERS = "osD^vP"
_COLUMNS = 2
_PALE = 0.45
_KEY = "star: best mean,  bar: standard deviation,  dot: a seed,  pale: wholly worse than the best,  arrow: off scale"
_TITLE, _VALUE = 70, 24  # characters in a line


@dataclass(frozen=True)
class Panel:
    """Accuracies, as fractions, or another metric for several values: one panel of a figure."""

    title: str
    values: Sequence[str]
    """The compared values, from top to bottom."""
    series: Sequence[tuple[str, Sequence[Sequence[float]]]]
    """(name, for each value the accuracies of the seeds; none if all failed). A single series needs no name."""
    metric: Metric = field(default_factory=Accuracy)
    name: str = ""
    """What the values are values of."""
    series_name: str = ""
    """What the names of the series are values of."""


@dataclass(frozen=True)
class Scatter:
    """Accuracies, as fractions, over a number sampled from a range."""

    title: str
    name: str
    points: Sequence[tuple[float, float]]
    log: bool
    metric: Metric = field(default_factory=Accuracy)


@dataclass(frozen=True)
class _Group:
    """The results of one value in one series, in the unit of the axis."""

    number: int
    """Of the series."""
    height: float
    results: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.results)

    @property
    def spread(self) -> float:
        return statistics.stdev(self.results) if len(self.results) > 1 else 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """Of the bar; of the dots, where they are beyond it."""
        return min(self.mean - self.spread, *self.results), max(self.mean + self.spread, *self.results)


def plot_sweep(panels: Sequence[Panel | Scatter], path: PathLike | None = None) -> Figure:
    """A figure of the `panels`, one below the other.

    Raises:
        DataError: there are none.
        OutputError: `path` cannot be written.
    """
    if not panels:
        raise DataError("the sweep has no finished trial, so there is nothing to draw")
    heights = [_height(panel) for panel in panels]
    with page(path, 7.5, sum(heights) + 0.2) as figure:
        grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            draw_panel(panel, axes)
        _explain(figure, panels)
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
    heights = [max(map(_height, row)) for row in rows]
    below = [] if confusion is None else [6.6]
    with page(path, 14, sum(heights) + sum(below) + 0.7) as figure:
        figure.suptitle(title, fontsize=13)
        shares = [part for part in (sum(heights), *below) if part]
        parts: list[SubFigure] = list(figure.subfigures(len(shares), 1, height_ratios=shares, squeeze=False)[:, 0])
        if rows:  # on one grid, so that the panels of a column are aligned
            grid = parts[0].subplots(len(rows), _COLUMNS, height_ratios=heights, squeeze=False)
            for axes, panel in zip(grid.flat, panels, strict=False):
                draw_panel(panel, axes)
            for axes in grid.flat[len(panels) :]:
                axes.set_axis_off()
            _explain(parts[0], panels)
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
    axes.set_title(_balanced(panel.title), fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if isinstance(panel, Scatter):
        x, y = np.array(panel.points, np.float64).reshape(-1, 2).T
        axes.plot(x, _factor(panel) * y, "o", color=BLUE, alpha=0.7)
        axes.set_xscale("log" if panel.log else "linear")
        axes.set_xlabel(_words(panel.name))
        axes.set_ylabel(_quantity(panel))
    else:
        _draw_values(axes, panel)
    return axes


def _explain(figure: Figure | SubFigure, panels: Sequence[Panel | Scatter]) -> None:
    if any(isinstance(panel, Panel) for panel in panels):
        figure.supxlabel(_KEY, fontsize=8, color=GREY)


def _factor(panel: Panel | Scatter) -> int:
    return 100 if panel.metric.percent else 1


def _words(name: str) -> str:
    return name.replace("_", " ")


def _quantity(panel: Panel | Scatter) -> str:
    return f"validation {_words(panel.metric.name)}{' (%)' if panel.metric.percent else ''}"


def _draw_values(axes: Axes, panel: Panel) -> None:
    count = len(panel.series)
    groups = [
        _Group(number, place + (number - (count - 1) / 2) * 0.8 / count, [_factor(panel) * value for value in results])
        for number, (_, of_values) in enumerate(panel.series)
        for place, results in enumerate(of_values)
    ]
    trained = [group for group in groups if group.results]
    sign = 1 if panel.metric.maximize else -1
    trained.sort(key=lambda group: -sign * group.mean)  # the best first
    drawn = trained[: _drawable(trained)]
    for group in drawn:
        best, worse = group is drawn[0], _apart(drawn[0], group, sign)
        _draw_group(axes, group, marker="*" if best else None, alpha=_PALE if worse else 1.0)
    edge = axes.get_yaxis_transform()
    for group in trained[len(drawn) :]:
        form = ".2f" if panel.metric.percent else ".3g"
        spread = f" \N{PLUS-MINUS SIGN} {group.spread:{form}}" if len(group.results) > 1 else ""
        x, away, side = (0.012, "<", "left") if sign > 0 else (0.988, ">", "right")
        axes.plot(x, group.height, away, color=_colour(group), transform=edge, clip_on=False, markersize=6)
        text = f"{group.mean:{form}}{spread}"
        place = x + sign * 0.018
        axes.text(place, group.height, text, transform=edge, va="center", ha=side, color=_colour(group), fontsize=8)
    for group in groups:
        if not group.results:
            axes.text(0.02, group.height, "failed", transform=edge, va="center", color=_colour(group), fontsize=8)
    for number, (name, _) in enumerate(panel.series):
        if count > 1:
            axes.plot([], [], _MARKERS[number % len(_MARKERS)], color=_COLOURS[number % len(_COLOURS)], label=name)
    axes.set_yticks(range(len(panel.values)), [textwrap.fill(value, _VALUE) for value in panel.values])
    axes.set_ylim(len(panel.values) - 0.5, -0.5)
    corner: Any = {"xycoords": "axes fraction", "xytext": (-7, 3), "textcoords": "offset points"}
    axes.annotate(_words(panel.name), (0, 1), ha="right", va="bottom", style="italic", **corner)
    axes.set_xlabel(_quantity(panel))
    if count > 1:
        legend_above(axes, _words(panel.series_name))


def _draw_group(axes: Axes, group: _Group, *, marker: str | None, alpha: float) -> None:
    """Mean, bar and dots; the marker is that of the series if none is given."""
    colour = _colour(group)
    axes.errorbar(
        [group.mean],
        [group.height],
        xerr=[group.spread] if len(group.results) > 1 else None,
        fmt=marker or _MARKERS[group.number % len(_MARKERS)],
        color=colour,
        capsize=3,
        markersize=12 if marker else 6,
        alpha=alpha,
    )
    heights = [group.height] * len(group.results)
    axes.plot(group.results, heights, "o", color=colour, markersize=3, alpha=0.6 * alpha, markerfacecolor="white")


def _colour(group: _Group) -> str:
    return _COLOURS[group.number % len(_COLOURS)]


def _apart(best: _Group, other: _Group, sign: int) -> bool:
    """Whether the bar and the dots of `other` are wholly on the worse side of those of `best`."""
    if len(best.results) < 2 or len(other.results) < 2:
        return False
    return other.ends[1] < best.ends[0] if sign > 0 else other.ends[0] > best.ends[1]


def _drawable(ordered: Sequence[_Group]) -> int:
    """How many of the groups, the best first, are drawn.

    Fewer than half are left out: those separated from the others by a gap that is wider than all of the others, which
    they would leave less than a third of the width.
    """

    def span(groups: Sequence[_Group]) -> tuple[float, float]:
        ends = [end for group in groups for end in group.ends]
        return min(ends), max(ends)

    kept = len(ordered)
    for count in range(len(ordered) - 1, max(1, len(ordered) // 2), -1):
        (low, high), (left, right) = span(ordered[:count]), span(ordered[count:kept])
        if max(low - right, left - high) > high - low > 0 and max(high, right) - min(low, left) > 3 * (high - low):
            kept = count
    return kept


def _balanced(title: str) -> str:
    """The title in as few lines as there must be, of similar lengths."""
    lines = len(textwrap.wrap(title, _TITLE))
    width = next(width for width in range(1, _TITLE + 1) if len(textwrap.wrap(title, width)) <= lines)
    return textwrap.fill(title, width)


def _height(panel: Panel | Scatter) -> float:
    if isinstance(panel, Scatter):
        return 3.2
    wrapped = sum(max(1, len(textwrap.wrap(value, _VALUE))) - 1 for value in panel.values)
    rows = 0.36 * len(panel.values) * max(1.0, 0.55 * len(panel.series)) + 0.05 * wrapped
    return 1.1 + (0.25 if len(panel.series) > 1 else 0.0) + rows
