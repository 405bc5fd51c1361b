"""The pictures of a run: learning curves, confusion, filters, feature maps and mistakes, each a PNG file.

Colours are told apart by colour-blind readers, too, and shares are given in percent. A file is written whole or not at
all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpunet.errors import DataError, ShapeError
from gpunet.report.canvas import BLUE, GREEN, GREY, ORANGE, TEN, VERMILLION, PathLike, Sheet, page

_MOST_FILTERS = 64
_MOST_MAPS = 8
_MOST_MISTAKES = 24
_MOST_NUMBERED = 25  # classes whose confusions are written out
_MOST_NAMED = 60  # classes whose names fit beside a matrix
_MOST_BARS = 40  # classes whose bars fit on a page

_MARKERS = "os^Dv"


class ClassRow(NamedTuple):
    """What a classifier achieves on one class; 0 where a denominator is 0."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int


def per_class_table(matrix: np.ndarray) -> list[ClassRow]:
    """Precision, recall, F1 and number of images of each class, from a confusion matrix (true, predicted).

    Raises:
        ShapeError: `matrix` is not square.
    """
    counts = _square(matrix).tolist()
    rows = []
    for label, row in enumerate(counts):
        hits, support, predicted = row[label], sum(row), sum(other[label] for other in counts)
        rows.append(
            ClassRow(
                label,
                precision=hits / predicted if predicted else 0.0,
                recall=hits / support if support else 0.0,
                f1=2 * hits / (support + predicted) if support + predicted else 0.0,
                support=int(support),
            )
        )
    return rows


def learning_curves(history: Sequence[Mapping[str, Any]], path: PathLike) -> None:
    """Loss, accuracy and learning rate over the epochs; the epoch of the best validation accuracy is marked.

    history: rows with epoch, train_loss, train_accuracy, validation_loss, validation_accuracy (shares of 1) and lr;
        a value that is missing or None leaves a gap. Rows with a stage (the hybrid's) are counted on from stage to
        stage, and where one begins is marked with its name.

    Raises:
        DataError: there are no rows.
        OutputError: `path` cannot be written.
    """
    if not history:
        raise DataError("no epoch has been recorded, so there are no learning curves")
    stages = [row.get("stage") for row in history]
    epochs = np.arange(1.0, len(history) + 1) if any(stages) else _column(history, "epoch")
    accuracy = _column(history, "validation_accuracy")
    with page(path, 11, 3.6) as figure:
        loss_axes, accuracy_axes, rate_axes = figure.subplots(1, 3, width_ratios=(4, 4, 3))
        for axes, quantity, factor in ((loss_axes, "loss", 1), (accuracy_axes, "accuracy", 100)):
            for part, colour, line, marker in (("train", BLUE, "--", "s"), ("validation", VERMILLION, "-", "o")):
                values = factor * _column(history, f"{part}_{quantity}")
                axes.plot(epochs, values, line, color=colour, label=part, **_markers(epochs, marker))
        loss_axes.set_title("Loss")
        accuracy_axes.set_title("Accuracy (%)")
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            label = f"best: {100 * accuracy[best]:.2f} % (epoch {epochs[best]:g})"
            accuracy_axes.axvline(epochs[best], color=GREY, linestyle=":", label=label)
            loss_axes.axvline(epochs[best], color=GREY, linestyle=":")
        rate_axes.plot(epochs, _column(history, "lr"), color=GREEN, **_markers(epochs, "D"))
        rate_axes.set_title("Learning rate")
        rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=False)
        loss_axes.legend()
        accuracy_axes.legend(loc="lower right")
        for axes in (loss_axes, accuracy_axes, rate_axes):
            for row, stage in enumerate(stages):
                if stage and (row == 0 or stage != stages[row - 1]):
                    axes.axvline(epochs[row] - 0.5, color=GREY, linewidth=0.8)
                    axes.text(epochs[row] - 0.3, 1.0, stage, transform=axes.get_xaxis_transform(), va="top", fontsize=7)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], path: PathLike) -> None:
    """A confusion matrix (true, predicted) in percent of each row's images, the total accuracy in the title.

    Raises:
        ShapeError: `matrix` is not square, or has not a row for each class name.
        OutputError: `path` cannot be written.
    """
    counts = _square(matrix, class_names).astype(np.float64)
    classes, total = len(counts), counts.sum()
    support = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, support, out=np.full_like(counts, np.nan), where=support > 0)
    side = min(3.2 + 0.56 * classes, 18.0)
    with page(path, side + 0.8, side) as figure:
        from matplotlib.colors import PowerNorm

        axes = figure.subplots()
        # The square root of the scale, so that the few confusions are seen beside the many hits.
        image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
        bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
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


def per_class_metrics(matrix: np.ndarray, class_names: Sequence[str], path: PathLike) -> None:
    """Precision, recall and F1 of each class as bars, in percent, the class with the best F1 on top.

    Of many classes, those with the worst F1 are drawn.

    Raises: as :func:`confusion_matrix`.
    """
    _square(matrix, class_names)
    rows = sorted(per_class_table(matrix), key=lambda row: (row.f1, -row.label))[:_MOST_BARS]  # drawn upwards
    which = "each class" if len(rows) == len(class_names) else f"the {len(rows)} worst of {len(class_names)} classes"
    with page(path, 8.5, 1.2 + 0.62 * len(rows)) as figure:
        axes = figure.subplots()
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
        axes.set_title(f"Precision, recall and F1 of {which} (number of images)")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3)


def first_layer_filters(weight: np.ndarray, path: PathLike, image_shape: tuple[int, int, int] | None = None) -> None:
    """The filters of the first layer as small pictures, those of the largest norm first.

    weight: (KH, KW, C, filters) of a convolution, or (H * W * C, units) of a linear layer on images.
    image_shape: (H, W, C) for a linear layer; without it, a square grey image.

    Three input channels are shown as colours around middle grey, otherwise their mean: red below zero, white at
    zero, blue above, on the same scale for all filters.

    Raises:
        ShapeError: the weight has another rank or does not fit the image.
        OutputError: `path` cannot be written.
    """
    weight = np.asarray(weight, np.float64)
    if weight.ndim == 2:
        side = math.isqrt(len(weight))
        shape = image_shape or (side, side, 1)
        if math.prod(shape) != len(weight):
            raise ShapeError(
                f"a linear layer of {len(weight)} inputs does not fit images of shape {tuple(shape)}; give image_shape"
            )
        weight = weight.reshape(*shape, -1)
    if weight.ndim != 4 or weight.size == 0:
        raise ShapeError(f"expected a weight (KH, KW, C, filters) or (inputs, units), got shape {weight.shape}")
    filters = weight.shape[-1]
    order = np.argsort(-np.linalg.norm(weight.reshape(-1, filters), axis=0), kind="stable")[:_MOST_FILTERS]
    # A single extreme weight would make all others pale.
    sizes = np.abs(weight[..., order])
    sizes = sizes[np.isfinite(sizes)]
    largest = float(sizes.max(initial=0.0))
    limit = (float(np.quantile(sizes, 0.995)) if sizes.size else 0.0) or largest or 1.0
    columns = min(8, len(order))
    rows = math.ceil(len(order) / columns)
    count = f"{filters} filters" if len(order) == filters else f"{len(order)} of {filters} filters"
    with page(path, 0.95 * columns + 1.2, 0.95 * rows + 0.5) as figure:
        sheet = Sheet(figure, rows, columns)
        image = None
        for place, index in enumerate(order):
            kernel = weight[..., index]
            if kernel.shape[2] == 3:
                sheet.show(*divmod(place, columns), np.clip(0.5 + np.nan_to_num(kernel) / (2 * limit), 0, 1))
            else:
                picture = kernel.mean(axis=2)
                image = sheet.show(*divmod(place, columns), picture, cmap="RdBu", vmin=-limit, vmax=limit)
        if image is not None:
            extend = "both" if largest > limit else "neither"
            figure.colorbar(image, ax=sheet.axes, fraction=0.05, pad=0.02, extend=extend)
        figure.suptitle(f"First layer: {count}, by norm")


def feature_maps(maps: Sequence[tuple[str, np.ndarray]], image: np.ndarray, path: PathLike) -> None:
    """What each layer makes of one image: a row a layer, its eight channels of the largest deviation (then mean).

    maps: (name of the layer, array (H, W, C)). image: uint8 or floats in [0, 1], (H, W, 1) or (H, W, 3).

    Raises:
        ShapeError: a map or the image has another shape, or there is no map.
        OutputError: `path` cannot be written.
    """
    _check_image(image)
    if not maps:
        raise ShapeError("no feature map was given")
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
            order = np.lexsort((-array.mean(axis=(0, 1)), -array.std(axis=(0, 1))))[:_MOST_MAPS]
            for column, channel in enumerate(order, 1):
                sheet.show(row, column, array[..., channel], f"{channel}", cmap="viridis", vmin=low, vmax=high)
        figure.suptitle("Feature maps: the channels that vary most, dark to bright on the scale of their layer")


def confident_mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    path: PathLike,
) -> None:
    """The wrong predictions that the model was surest of, the surest first.

    images: (n, H, W, 1) or (n, H, W, 3), uint8 or floats in [0, 1]. labels, predictions: (n,). probabilities:
        (n, classes), or (n,) those of the predicted classes.

    Raises:
        ShapeError: the arrays do not belong together.
        OutputError: `path` cannot be written.
    """
    n = len(labels)
    if not len(images) == len(predictions) == len(probabilities) == n or np.ndim(probabilities) not in (1, 2):
        raise ShapeError(
            f"images, labels, predictions and probabilities must be of one length, got {len(images)}, {n}, "
            f"{len(predictions)} and {np.shape(probabilities)}"
        )
    if n:
        _check_image(images[0])
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    table = np.asarray(probabilities, np.float64)
    confidence = table if table.ndim == 1 else table[np.arange(n), predictions]
    wrong = np.flatnonzero(labels != predictions)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MOST_MISTAKES]
    columns = 6
    rows = max(1, math.ceil(len(order) / columns))
    title = f"No mistakes in {n:,} images"
    if len(wrong):
        share = f"{100 * len(wrong) / n:.2f} %"
        title = f"The surest of {len(wrong):,} mistakes in {n:,} images ({share}): predicted, true"
    with page(path, 10, 2.05 * rows + 0.4) as figure:
        sheet = Sheet(figure, rows, columns, headroom=0.2)
        figure.suptitle(title)
        for place, index in enumerate(order):
            prediction, label = predictions[index], labels[index]
            true = "" if table.ndim == 1 else f" {100 * table[index, label]:.1f} %"
            words = f"{class_names[prediction]} {100 * confidence[index]:.1f} %\ntrue: {class_names[label]}{true}"
            sheet.show_image(*divmod(place, columns), images[index], words)


def feature_map(features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: PathLike) -> None:
    """Images as points in the plane of the two directions in which their features vary most, a colour a class.

    features: (n, d), or (n, ...) that is flattened. labels: (n,). The directions are the principal components: the
    eigenvectors of the covariance with the largest eigenvalues (Hotelling 1933), each turned so that its largest
    entry is positive.

    Raises:
        ShapeError: features and labels are not of one length, or there are none.
        DataError: a feature is NaN or infinite.
        OutputError: `path` cannot be written.
    """
    labels = np.asarray(labels)
    if not len(features) == len(labels) > 0:
        raise ShapeError(f"expected as many features as labels, at least one; got {len(features)} and {len(labels)}")
    points = np.asarray(features, np.float64).reshape(len(features), -1)
    if not np.isfinite(points).all():
        raise DataError("a feature is NaN or infinite, so there is no map of the features")
    plane, shares = principal_plane(points)
    with page(path, 8, 7) as figure:
        axes = figure.subplots()
        # By marker and in the order of the data set, not class upon class, which would hide the first ones.
        for number, marker in enumerate(_MARKERS):
            chosen = labels % len(_MARKERS) == number
            x, y = plane[chosen].T
            colours = [TEN[label % len(TEN)] for label in labels[chosen]]
            axes.scatter(x, y, s=9, c=colours, marker=marker, linewidths=0, alpha=0.55)
        present = np.unique(labels)[:_MOST_NAMED]
        centres = np.array([np.median(plane[labels == label], axis=0) for label in present])
        for label, centre in zip(present, _apart(centres, np.ptp(plane, axis=0)), strict=True):
            colour = TEN[label % len(TEN)]
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
            axes.text(centre[0], centre[1], class_names[label], ha="center", va="center", fontsize=9, bbox=box)
        axes.set_xlabel(f"first principal component ({100 * shares[0]:.1f} % of the variance)")
        axes.set_ylabel(f"second principal component ({100 * shares[1]:.1f} %)")
        axes.set_title(f"Features of {len(labels):,} images; names near each class's median")
        axes.grid(alpha=0.3)


def _apart(centres: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The places (n, 2) of labels, moved upwards where they would cover one another on a page of size `extent`."""
    width, height = 0.13 * extent[0], 0.035 * extent[1]
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


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`points` (n, d) in their first two principal components, (n, 2), and the shares of the variance, (2,)."""
    centred = points - points.mean(axis=0)
    d = points.shape[1]
    count = min(2, d)
    from scipy.linalg import eigh

    variances, directions = eigh(centred.T @ centred, subset_by_index=(d - count, d - 1))
    directions = directions[:, ::-1]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(count)])
    plane, shares = np.zeros((len(points), 2)), np.zeros(2)
    plane[:, :count] = centred @ directions
    total = float((centred * centred).sum())
    if total > 0:
        shares[:count] = np.maximum(variances[::-1], 0) / total
    return plane, shares


def _caption(name: str, shape: Sequence[int]) -> str:
    height, width, channels = shape
    return f"{name}\n{height} x {width}\n{channels} {'channel' if channels == 1 else 'channels'}"


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [row.get(name) for row in history]
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _markers(epochs: np.ndarray, marker: str) -> dict[str, Any]:
    """Marked points while they can be told apart."""
    return {"marker": marker, "markersize": 3.5} if len(epochs) <= 40 else {}


def _square(matrix: np.ndarray, class_names: Sequence[str] | None = None) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ShapeError(f"expected a square confusion matrix (true, predicted), got shape {matrix.shape}")
    if class_names is not None and len(class_names) != len(matrix):
        raise ShapeError(f"a confusion matrix of {len(matrix)} classes does not fit {len(class_names)} class names")
    return matrix


def _check_image(image: np.ndarray) -> None:
    if np.ndim(image) != 3 or np.shape(image)[2] not in (1, 3):
        raise ShapeError(f"expected an image (H, W, 1) or (H, W, 3), got shape {np.shape(image)}")
