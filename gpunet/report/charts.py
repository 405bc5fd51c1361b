"""Charts on axes, `ax`, for the PNG figures of a run and the drawings inside a report; without `ax`, on new ones.

All return the axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.report.canvas import BLUE, GREEN, GREY, ORANGE, TEN, VERMILLION, WHITE, axes_or_new, legend_above
from gpunet.report.metrics import Calibration
from gpunet.training.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, Any]]
"""Rows with epoch, train_loss, train_accuracy, validation_loss, validation_accuracy (fractions), lr and seconds.

A missing or None value leaves a gap. Rows with a stage (the hybrid's) are numbered consecutively across stages."""

_MARKERS = "os^Dv"
_LINES = ("-", "--", ":", "-.")
_MOST_NAMED = 60  # classes whose names fit into a map
_RASTER = 500  # number of points above which a bitmap is smaller than vector graphics


def least_loss(label_smoothing: float, classes: int) -> float:
    """The cross-entropy of labels smoothed over `classes` with themselves: no prediction has a smaller loss.

    Subtracted from the loss, it leaves the Kullback-Leibler divergence, which is 0 for perfect predictions, as the loss
    without smoothing is.

    >>> from gpunet.report.charts import least_loss
    >>> round(least_loss(0.1, 10), 4), least_loss(0.0, 10)
    (0.5003, 0.0)
    """
    wrong = label_smoothing / classes
    right = 1 - label_smoothing + wrong
    return -right * math.log(right) - (classes - 1) * (wrong * math.log(wrong) if wrong else 0.0) + 0.0


def draw_curves(
    history: History,
    quantity: str,
    ax: Axes | None = None,
    *,
    label_smoothing: float = 0.0,
    classes: int | None = None,
) -> Axes:
    """The training and validation ``loss`` or a metric (shares in percent), with the best validation epoch marked.

    Args:
        label_smoothing: of the training, which the validation loss is without: what it adds to the training loss at
            least, :func:`least_loss` for this number of `classes`, is subtracted; the legend says so.
    """
    axes = axes_or_new(ax)
    numbers = _epochs(history)
    metric = monitored(history)
    kind = METRICS.get(metric)
    factor = 100 if quantity != "loss" and kind is not None and kind.percent else 1
    for part, colour, line, marker in (("train", BLUE, "--", "s"), ("validation", VERMILLION, "-", "o")):
        values = factor * _column(history, f"{part}_{quantity}")
        if part == "train" and metric != "accuracy" and not np.isfinite(values).any():
            continue
        label: str | None = part
        if part == "train" and quantity == "loss" and label_smoothing:
            least = least_loss(label_smoothing, classes) if classes else 0.0
            values = values - least
            label = f"train - {least:.2f} (label smoothing)" if classes else "train (with label smoothing)"
        axes.plot(numbers, values, line, color=colour, label=label, **_markers(numbers, marker))
    scores = _column(history, f"validation_{metric}")
    if np.isfinite(scores).any():
        best = int(np.nanargmax(scores if kind is None or kind.maximize else -scores))
        shown = f"{100 * scores[best]:.2f} %" if kind is not None and kind.percent else f"{scores[best]:.4g}"
        label = f"best: {shown} (epoch {numbers[best]:g})" if quantity == metric else None
        axes.axvline(numbers[best], color=GREY, linestyle=":", label=label)
    name = quantity.replace("_", " ").capitalize()
    axes.set_title(f"{name} (%)" if factor == 100 else name)
    _finish_epochs(axes, history)
    legend_above(axes)
    return axes


def monitored(history: History) -> str:
    """The name of the metric by which the best epoch is chosen: the first that is recorded."""
    names = [name.removeprefix("validation_") for name in (history[0] if history else {}) if "validation_" in name]
    return next((name for name in names if name != "loss"), "accuracy")


def draw_rate(history: History, ax: Axes | None = None) -> Axes:
    """The learning rate at the end of each epoch."""
    axes = axes_or_new(ax)
    numbers = _epochs(history)
    axes.plot(numbers, _column(history, "lr"), color=GREEN, **_markers(numbers, "D"))
    axes.set_title("Learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
    _finish_epochs(axes, history)
    return axes


def draw_durations(history: History, ax: Axes | None = None) -> Axes:
    """The seconds of each epoch, validation included."""
    axes = axes_or_new(ax)
    axes.bar(_epochs(history), _column(history, "seconds"), color=BLUE, width=0.8)
    axes.set_title("Seconds per epoch")
    _finish_epochs(axes, history)
    axes.grid(axis="x", visible=False)
    return axes


def draw_compared(
    runs: Sequence[tuple[str, History]], quantity: str, ax: Axes | None = None, *, remark: str = ""
) -> Axes:
    """``train_loss``, ``validation_loss`` or ``validation_accuracy`` of several runs, (name, history).

    The remark is put behind the title.
    """
    axes = axes_or_new(ax)
    factor = 100 if quantity.endswith("accuracy") else 1
    for place, (name, history) in enumerate(runs):
        numbers = _epochs(history)
        line = _LINES[place // len(TEN) % len(_LINES)]
        options = {"color": TEN[place % len(TEN)], "label": name, **_markers(numbers, _MARKERS[place % len(_MARKERS)])}
        axes.plot(numbers, factor * _column(history, quantity), line, **options)
    part, _, what = quantity.partition("_")
    axes.set_title(f"{part.capitalize()} {what}{' (%)' if factor == 100 else ''}{remark}")
    _finish_epochs(axes, ())
    return axes


def draw_reliability(found: Calibration, ax: Axes | None = None) -> Axes:
    """Reliability diagram: accuracy over confidence per bin, in percent; overconfident below the diagonal."""
    axes = axes_or_new(ax)
    bins = len(found.counts)
    width = 100 / bins
    centres = width * (np.arange(bins) + 0.5)
    filled = found.counts > 0
    accuracy, confidence = 100 * found.accuracy[filled], 100 * found.confidence[filled]
    axes.bar(centres[filled], accuracy, width * 0.94, color=BLUE)
    axes.bar(
        centres[filled],
        confidence - accuracy,
        width * 0.94,
        bottom=accuracy,
        color="none",
        edgecolor=VERMILLION,
        hatch="////",
        linewidth=0.8,
    )
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("confidence (%)")
    axes.set_title("Accuracy (%) over confidence")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return axes


def draw_confidences(found: Calibration, ax: Axes | None = None) -> Axes:
    """The percentage of images in each confidence bin."""
    axes = axes_or_new(ax)
    bins = len(found.counts)
    width = 100 / bins
    axes.bar(width * (np.arange(bins) + 0.5), 100 * found.counts / found.counts.sum(), width * 0.94, color=ORANGE)
    axes.set_xlim(0, 100)
    axes.set_xlabel("confidence (%)")
    axes.set_title("Images (%) by confidence")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return axes


def draw_map(plane: np.ndarray, labels: np.ndarray, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Images as points (n, 2), a colour and a marker per class, with class names near the median of their points.

    More than 60 classes are not named.
    """
    axes = axes_or_new(ax)
    # By marker and in the order of the data set, not class by class: later classes would hide earlier ones.
    for number, marker in enumerate(_MARKERS):
        chosen = labels % len(_MARKERS) == number
        x, y = plane[chosen].T
        colours = [TEN[label % len(TEN)] for label in labels[chosen]]
        raster = len(plane) > _RASTER
        axes.scatter(x, y, s=9, c=colours, marker=marker, linewidths=0, alpha=0.55, rasterized=raster)
    axes.grid(alpha=0.3)
    present = np.unique(labels)
    if len(present) > _MOST_NAMED:
        return axes
    centres = np.array([np.median(plane[labels == label], axis=0) for label in present])
    size = axes.figure.get_size_inches() * axes.get_position().size  # type: ignore[union-attr]
    room = np.ptp(plane, axis=0) * (0.81, 0.19) / size  # the approximate size of a name in inches
    for label, centre in zip(present, _apart(centres, room), strict=True):
        colour = TEN[label % len(TEN)]
        box = {"boxstyle": "round,pad=0.2", "facecolor": WHITE, "edgecolor": colour, "linewidth": 2}
        axes.text(centre[0], centre[1], class_names[label], ha="center", va="center", fontsize=9, bbox=box)
    return axes


def _apart(centres: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The positions (n, 2) of labels of the size `room`, moved upwards where they would overlap."""
    width, height = room
    placed: list[np.ndarray] = []
    moved = centres.copy()
    for index in np.argsort(centres[:, 1], kind="stable"):
        place = moved[index]
        for other in placed:  # from the lowest to the highest
            if abs(place[0] - other[0]) < width and place[1] < other[1] + height:
                place[1] = other[1] + height
        placed.append(place)
        placed.sort(key=lambda other: float(other[1]))
    return moved


def _epochs(history: History) -> np.ndarray:
    if any(row.get("stage") for row in history):
        return np.arange(1.0, len(history) + 1)
    return _column(history, "epoch")


def _column(history: History, name: str) -> np.ndarray:
    values = [row.get(name) for row in history]
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _markers(epochs: np.ndarray, marker: str) -> dict[str, Any]:
    """Markers, if there are few enough points to tell them apart."""
    return {"marker": marker, "markersize": 3.5} if len(epochs) <= 40 else {}


def _finish_epochs(axes: Axes, history: History) -> None:
    """Format the epoch axis, and mark the start of each stage by a line with its name."""
    stages = [row.get("stage") for row in history]
    epochs = _epochs(history)
    begins = [row for row, stage in enumerate(stages) if stage and (row == 0 or stage != stages[row - 1])]
    if begins:
        axes.margins(y=0.15)  # room for the names, above the curves and right of the last line
        left, right = axes.get_xlim()
        axes.set_xlim(min(left, epochs[begins[0]] - 0.5), max(right, epochs[begins[-1]] + 0.15 * len(epochs)))
    for row in begins:
        axes.axvline(epochs[row] - 0.5, color=GREY, linewidth=0.8)
        place: Any = {"xycoords": axes.get_xaxis_transform(), "xytext": (2, -3), "textcoords": "offset points"}
        axes.annotate(str(stages[row]), (epochs[row] - 0.5, 1.0), va="top", fontsize=7, **place)
    axes.set_xlabel("epoch")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
