"""The figures of a run: learning curves, confusion, filters, feature maps and mistakes, each a PNG file.

The colours are colour-blind safe, and fractions are given in percent. Every function ``plot_*`` returns a figure, which
a notebook shows, and writes it to `path`, atomically, if that is given; ``draw_*`` draws on the axes `ax`, or on those
of a new figure, and returns them. All raise ConfigError if matplotlib cannot be imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.errors import DataError, ShapeError
from gpunet.report.canvas import BLUE, GREEN, ORANGE, PathLike, Sheet, axes_or_new, page
from gpunet.report.charts import draw_curves, draw_map, draw_rate, monitored
from gpunet.report.metrics import ClassRow, per_class_table, principal_plane, square_confusion
from gpunet.report.ranking import channels_that_vary, most_confident_mistakes, strongest_filters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MAPS = 8
_MOST_MISTAKES = 24
_MOST_NUMBERED = 25  # classes whose confusions are shown as numbers
_MOST_NAMED = 60  # classes whose names fit beside a matrix
_MOST_BARS = 40  # classes whose bars fit on a page


def plot_learning_curves(
    history: Sequence[Mapping[str, Any]],
    path: PathLike | None = None,
    *,
    label_smoothing: float = 0.0,
    classes: int | None = None,
) -> Figure:
    """Loss, accuracy (or the metric that is monitored) and learning rate over the epochs; the best epoch is marked.

    Args:
        history: rows with epoch, train_loss, train_accuracy, validation_loss, validation_accuracy (fractions) and lr; a
            missing or None value leaves a gap. Rows with a stage (the hybrid's) are numbered consecutively across
            stages, and the start of each stage is marked with its name.
        label_smoothing, classes: of the training; what smoothing adds to the training loss at least is subtracted, so
            that it can be compared with the validation loss.

    Raises:
        DataError: there are no rows.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_learning_curves
    >>> history = gn.training.History()
    >>> for epoch, loss in enumerate((0.9, 0.5, 0.4), start=1):
    ...     record = {"epoch": epoch, "lr": 0.1, "train_loss": loss, "train_accuracy": 1 - loss}
    ...     history.append({**record, "validation_loss": loss, "validation_accuracy": 1 - loss})
    >>> figure = plot_learning_curves(history.records, "learning_curves.png")
    """
    if not history:
        raise DataError("no epoch has been recorded, so there are no learning curves")
    with page(path, 11, 3.6) as figure:
        loss_axes, accuracy_axes, rate_axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
        draw_curves(history, "loss", loss_axes, label_smoothing=label_smoothing, classes=classes)
        draw_curves(history, monitored(history), accuracy_axes)
        draw_rate(history, rate_axes)
    return figure


def plot_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: PathLike | None = None) -> Figure:
    """A confusion matrix (true, predicted) in percent of each row, with the overall accuracy in the title.

    Raises:
        ShapeError: `matrix` is not square, or does not have one row per class name.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_confusion_matrix
    >>> figure = plot_confusion_matrix(np.array([[3, 1], [0, 4]]), ["cat", "dog"], "confusion.png")
    """
    side = min(3.2 + 0.56 * len(square_confusion(matrix, class_names)), 18.0)
    with page(path, side + 0.8, side) as figure:
        draw_confusion(matrix, class_names, figure.subplots())
    return figure


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """:func:`plot_confusion_matrix` on given axes.

    Raises:
        ShapeError: as there.
    """
    axes = axes_or_new(ax)
    from matplotlib.colors import PowerNorm

    counts = square_confusion(matrix, class_names).astype(np.float64)
    classes, total = len(counts), counts.sum()
    support = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    # A square-root scale, so that the few confusions are visible next to the many hits.
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("% of the true class")
    accuracy = f"accuracy {100 * np.trace(counts) / total:.2f} % of " if total else ""
    axes.set_title(f"Confusion matrix: {accuracy}{int(total):,} images")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if classes <= _MOST_NAMED:
        sizes = support[:, 0].astype(int)
        axes.set_xticks(range(classes), class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), [f"{name} ({n})" for name, n in zip(class_names, sizes, strict=True)])
    if classes <= _MOST_NUMBERED:
        for row, column in np.argwhere(counts):
            value = percent[row, column]
            text = f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"
            colour = "white" if value > 40 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return axes


def plot_per_class_metrics(matrix: np.ndarray, class_names: Sequence[str], path: PathLike | None = None) -> Figure:
    """Precision, recall and F1 of each class as bars, in percent, the class with the best F1 on top.

    If there are too many classes, only those with the worst F1 are drawn.

    Raises: as :func:`plot_confusion_matrix`.

    >>> from gpunet.report.figures import plot_per_class_metrics
    >>> figure = plot_per_class_metrics(np.array([[3, 1], [0, 4]]), ["cat", "dog"], "per_class.png")
    """
    square_confusion(matrix, class_names)
    with page(path, 8.5, 1.2 + 0.62 * min(len(class_names), _MOST_BARS)) as figure:
        axes = figure.subplots()
        draw_class_metrics(matrix, class_names, axes)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3)
    return figure


def draw_class_metrics(matrix: np.ndarray, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """:func:`plot_per_class_metrics` on given axes, without the legend.

    Raises:
        ShapeError: as there.
    """
    axes = axes_or_new(ax)
    square_confusion(matrix, class_names)
    return draw_class_rows(per_class_table(matrix), class_names, "class", "images", axes)


def draw_class_rows(
    found: Sequence[ClassRow], class_names: Sequence[str], what: str, counted: str, ax: Axes | None = None
) -> Axes:
    """Bars of precision, recall and F1 of classes, or of the worst of many."""
    axes = axes_or_new(ax)
    rows = sorted(found, key=lambda row: (row.f1, -row.label))[:_MOST_BARS]  # drawn upwards
    many = {"class": "classes", "label": "labels"}[what]
    which = f"each {what}" if len(rows) == len(class_names) else f"the {len(rows)} worst of {len(class_names)} {many}"
    height = 0.27
    measures = (("F1", BLUE, -1), ("recall", ORANGE, 0), ("precision", GREEN, 1))
    for name, colour, place in measures:
        values = [100 * getattr(row, name.lower()) for row in rows]
        positions = [position + height * place for position in range(len(rows))]
        bars = axes.barh(positions, values, height * 0.94, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), [f"{class_names[row.label]} ({row.support})" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 106)
    axes.set_xticks(range(0, 101, 10))
    axes.set_xlabel("%")
    axes.set_title(f"Precision, recall and F1 of {which} (number of {counted})")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return axes


def plot_first_layer_filters(
    weight: np.ndarray, path: PathLike | None = None, image_shape: tuple[int, int, int] | None = None
) -> Figure:
    """The filters of the first layer as small images, in descending order of their norm.

    Args:
        weight: (KH, KW, C, filters) of a convolution, or (H * W * C, units) of a linear layer on images.
        image_shape: (H, W, C) for a linear layer; without it, a square grey image.

    Three input channels are shown as colours around mid-grey, otherwise their mean: red below zero, white at zero,
    blue above, on the same scale for all filters.

    Raises:
        ShapeError: the weight has the wrong rank or does not match the image shape.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_first_layer_filters
    >>> conv = gn.nn.Conv2d(1, 8).initialize(seed=0)
    >>> figure = plot_first_layer_filters(conv.weight.value, "filters.png")
    """
    filters = strongest_filters(weight, image_shape)
    limit, order = filters.limit, filters.order
    columns = min(8, len(order))
    rows = math.ceil(len(order) / columns)
    with page(path, 0.95 * columns + 1.2, 0.95 * rows + 0.5) as figure:
        sheet = Sheet(figure, rows, columns)
        image = None
        for place, index in enumerate(order):
            kernel = filters.weight[..., index]
            if kernel.shape[2] == 3:
                sheet.show(*divmod(place, columns), np.clip(0.5 + np.nan_to_num(kernel) / (2 * limit), 0, 1))
            else:
                picture = kernel.mean(axis=2)
                image = sheet.show(*divmod(place, columns), picture, cmap="RdBu", vmin=-limit, vmax=limit)
        if image is not None:
            extend = "both" if filters.largest > limit else "neither"
            figure.colorbar(image, ax=sheet.axes, fraction=0.05, pad=0.02, extend=extend)
        figure.suptitle(f"First layer: {filters.count}, by norm")
    return figure


def plot_feature_maps(
    maps: Sequence[tuple[str, np.ndarray]], image: np.ndarray, path: PathLike | None = None
) -> Figure:
    """Feature maps of one image: one row per layer, its eight channels of largest standard deviation (then mean).

    Args:
        maps: (name of the layer, array (H, W, C)).
        image: uint8 or floats in [0, 1], (H, W, C), shown in grey or colour or, unless C is 1 or 3, as the mean of its
            channels.

    Raises:
        ShapeError: a map or the image has the wrong shape, or there is no map.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_feature_maps
    >>> image = np.eye(8, dtype=np.float32)[:, :, None]
    >>> figure = plot_feature_maps([("block1", image[::2, ::2])], image, "maps.png")
    """
    _check_image(image)
    if not maps:
        raise ShapeError("no feature maps were given")
    for name, array in maps:
        if np.ndim(array) != 3 or np.size(array) == 0:
            raise ShapeError(f"the feature maps of {name} must be (H, W, C), got shape {np.shape(array)}")
    rows, columns = len(maps) + 1, _MOST_MAPS + 1
    with page(path, 1.1 * columns, 1.25 * rows + 0.4) as figure:
        sheet = Sheet(figure, rows, columns, headroom=0.13)
        sheet.write(0, 0, _caption("input", np.shape(image)))
        sheet.show_image(0, 1, image)
        for row, (name, values) in enumerate(maps, 1):
            array = np.asarray(values, np.float64)
            sheet.write(row, 0, _caption(name, array.shape))
            finite = array[np.isfinite(array)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
            for column, channel in enumerate(channels_that_vary(array), 1):
                sheet.show(row, column, array[..., channel], f"{channel}", cmap="viridis", vmin=low, vmax=high)
        figure.suptitle("Feature maps: the channels that vary most, dark to bright, on one scale per layer")
    return figure


def plot_confident_mistakes(
    images: np.ndarray | Sequence[np.ndarray],
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: PathLike | None = None,
) -> Figure:
    """The most confident wrong predictions, in descending order of confidence.

    Args:
        images: (n, H, W, C), uint8 or floats in [0, 1], shown in grey or colour or, unless C is 1 or 3, as the mean of
            their channels.
        labels, predictions: (n,).
        probabilities: (n, classes), or (n,) those of the predicted classes.

    Raises:
        ShapeError: the arrays have inconsistent shapes.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_confident_mistakes
    >>> images, labels, predictions = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), np.array([0, 0])
    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    >>> figure = plot_confident_mistakes(images, labels, predictions, probabilities, ["cat", "dog"], "mistakes.png")
    """
    n = len(labels)
    if not len(images) == len(predictions) == len(probabilities) == n or np.ndim(probabilities) not in (1, 2):
        raise ShapeError(
            f"images, labels, predictions and probabilities must have the same length, got {len(images)}, {n}, "
            f"{len(predictions)} and {np.shape(probabilities)}"
        )
    if n:
        _check_image(images[0])
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    table = np.asarray(probabilities, np.float64)
    confidence = table if table.ndim == 1 else table[np.arange(n), predictions]
    wrong = most_confident_mistakes(labels, predictions, confidence)
    order = wrong[:_MOST_MISTAKES]
    columns = 6
    rows = max(1, math.ceil(len(order) / columns))
    title = f"No mistakes in {n:,} images"
    if len(wrong):
        share = f"{100 * len(wrong) / n:.2f} %"
        title = f"The most confident of {len(wrong):,} mistakes in {n:,} images ({share}): predicted, true"
    with page(path, 10, 2.05 * rows + 0.4) as figure:
        sheet = Sheet(figure, rows, columns, headroom=0.2)
        figure.suptitle(title)
        for place, index in enumerate(order):
            prediction, label = predictions[index], labels[index]
            true = "" if table.ndim == 1 else f" {100 * table[index, label]:.1f} %"
            words = f"{class_names[prediction]} {100 * confidence[index]:.1f} %\ntrue: {class_names[label]}{true}"
            sheet.show_image(*divmod(place, columns), images[index], words)
    return figure


def plot_feature_scatter(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: PathLike | None = None
) -> Figure:
    """Images as points in the plane of the first two principal components of their features, one colour per class.

    The principal components are the eigenvectors of the covariance matrix with the largest eigenvalues (Hotelling
    1933), with the sign chosen so that the entry of largest magnitude is positive.

    Args:
        features: (n, d), or (n, ...), which is flattened.
        labels: (n,).

    Raises:
        ShapeError: features and labels differ in length, or there are none.
        DataError: a feature is NaN or infinite.
        OutputError: `path` cannot be written.

    >>> from gpunet.report.figures import plot_feature_scatter
    >>> figure = plot_feature_scatter(np.eye(4), np.array([0, 0, 1, 1]), ["cat", "dog"], "features.png")
    """
    labels = np.asarray(labels)
    if not len(features) == len(labels) > 0:
        raise ShapeError(f"expected as many features as labels, at least one; got {len(features)} and {len(labels)}")
    points = np.asarray(features, np.float64).reshape(len(features), -1)
    if not np.isfinite(points).all():
        raise DataError("a feature is NaN or infinite, so the features cannot be mapped")
    plane, shares = principal_plane(points)
    with page(path, 8, 7) as figure:
        axes = figure.subplots()
        draw_map(plane, labels, class_names, axes)
        axes.set_xlabel(f"first principal component ({100 * shares[0]:.1f} % of the variance)")
        axes.set_ylabel(f"second principal component ({100 * shares[1]:.1f} %)")
        axes.set_title(f"Features of {len(labels):,} images; names near each class's median")
    return figure


def _caption(name: str, shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{name}\n{height} x {width}\n{channels} {'channel' if channels == 1 else 'channels'}"


def _check_image(image: np.ndarray) -> None:
    if np.ndim(image) != 3 or np.size(image) == 0:
        raise ShapeError(f"expected an image (H, W, C), got shape {np.shape(image)}")
