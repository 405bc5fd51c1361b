"""The figures of a run folder. They come after its results, so one that cannot be drawn is only a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.data.scaling import Scaling
from gpunet.errors import ConfigError, GpunetError
from gpunet.files import PathLike
from gpunet.nn import Conv2d, ConvBlock, ForwardContext, Layer, Linear, Sequential
from gpunet.report import figures, target_figures
from gpunet.report.canvas import load_matplotlib
from gpunet.report.metrics import MOST_CLASSES, confusion_matrix

logger = logging.getLogger("gpunet")

Drawings = Mapping[str, Callable[[Path], object]]
"""Name of a file -> the function that draws it."""


def draw_all(folder: PathLike, drawings: Drawings) -> None:
    """Draw each figure in `folder`; one that cannot be drawn is left out, with a warning that names it and the reason.

    The reason may be anything: a full disk, an error of the plotting package, or that there is no such package.
    """
    folder = Path(folder)
    try:
        load_matplotlib()
    except ConfigError as error:
        logger.warning("%s are not drawn: %s", ", ".join(str(folder / name) for name in drawings), error)
        return
    for name, draw in drawings.items():
        try:
            draw(folder / name)
        except Exception as error:
            reason = str(error) if isinstance(error, GpunetError) else f"{type(error).__name__}: {error}"
            logger.warning("%s is not drawn: %s", folder / name, " ".join(reason.split()))


def plot_evaluation(folder: PathLike, dataset: Dataset, probabilities: np.ndarray, *, prefix: str = "") -> None:
    """Confusion matrix, per-class metrics and, of images, most confident mistakes, as PNG files in `folder`.

    The first two are left out if there are more than 1000 classes; what else cannot be drawn is left out as well, each
    with a warning.
    """
    draw_all(folder, _of_evaluation(Path(folder), dataset, probabilities, prefix))


def plot_run(
    folder: PathLike,
    model: Sequential,
    records: Sequence[dict[str, Any]],
    test: Dataset,
    probabilities: np.ndarray,
    scaling: Scaling,
    label_smoothing: float = 0.0,
    class_weights: str = "none",
) -> None:
    """All figures of a run: learning curves, those of :func:`plot_evaluation`, filters, and a CNN's feature maps.

    A table's features are not shown as images. `label_smoothing` and `class_weights` are those of the training.

    What cannot be drawn is left out, with a warning.
    """

    def feature_maps(path: Path) -> None:
        maps = block_maps(model, test.images[:1], scaling)
        if maps:
            figures.plot_feature_maps(maps, visible(test, slice(1))[0], path)

    drawings: dict[str, Callable[[Path], object]] = {
        "learning_curves.png": lambda path: figures.plot_learning_curves(
            records, path, **smoothing(label_smoothing, class_weights, test.classes)
        ),
        **_of_evaluation(Path(folder), test, probabilities, ""),
    }
    if not test.is_table:
        drawings["first_layer_filters.png"] = lambda path: figures.plot_first_layer_filters(
            first_weight(model), path, image_shape=test.image_shape
        )
        drawings["feature_maps.png"] = feature_maps
    draw_all(folder, drawings)


def smoothing(label_smoothing: float, class_weights: str, classes: int) -> dict[str, Any]:
    """The arguments of :func:`gpunet.report.charts.draw_curves` on label smoothing.

    With weights of classes the least loss is another number for each class, so nothing is subtracted.
    """
    return {"label_smoothing": label_smoothing, "classes": classes if class_weights == "none" else None}


def plot_targets(folder: PathLike, records: Sequence[dict[str, Any]], test: Dataset, predictions: np.ndarray) -> None:
    """All figures of a run that predicts numbers or labels; what cannot be drawn is left out, with a warning."""
    curves: Drawings = {"learning_curves.png": lambda path: figures.plot_learning_curves(records, path)}
    draw_all(folder, {**curves, **target_figures.drawings(test, predictions, "")})


def plot_predictions(folder: PathLike, dataset: Dataset, predictions: np.ndarray, *, prefix: str = "") -> None:
    """As :func:`plot_evaluation` for numbers or labels that are predicted, (n, K)."""
    draw_all(folder, target_figures.drawings(dataset, predictions, prefix))


def visible(dataset: Dataset, rows: slice) -> np.ndarray:
    """The images at `rows` as figures show them: uint8, or floats in [0, 1], values beyond the range at its ends."""
    images = dataset.shown(rows)
    return images if images.dtype == np.uint8 else images.clip(0, 1)


class _Visible(Sequence[np.ndarray]):
    """The images of a data set as figures show them, each read when it is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        return visible(self._dataset, slice(int(index), int(index) + 1))[0]


def _of_evaluation(folder: Path, dataset: Dataset, probabilities: np.ndarray, prefix: str) -> Drawings:
    labels, predictions, names = dataset.labels, probabilities.argmax(1), dataset.class_names
    by_class = {
        f"{prefix}confusion_matrix.png": figures.plot_confusion_matrix,
        f"{prefix}per_class_metrics.png": figures.plot_per_class_metrics,
    }
    drawings: dict[str, Callable[[Path], object]] = {}
    if dataset.classes > MOST_CLASSES:
        skipped = " and ".join(str(folder / name) for name in by_class)
        logger.warning("%s are not drawn: %d classes are more than %d", skipped, dataset.classes, MOST_CLASSES)
    else:
        matrix = confusion_matrix(labels, predictions, dataset.classes)
        drawings = {name: lambda path, plot=plot: plot(matrix, names, path) for name, plot in by_class.items()}  # type: ignore[misc]
    if not dataset.is_table:
        drawings[f"{prefix}confident_mistakes.png"] = lambda path: figures.plot_confident_mistakes(
            _Visible(dataset), labels, predictions, probabilities, names, path
        )
    return drawings


def _host(model: Layer, array: Any) -> np.ndarray:
    assert model.flat is not None
    return model.flat.backend.to_numpy(array)


def first_weight(model: Sequential) -> np.ndarray:
    """The first layer's weight: HWIO for a convolution, (in, out) for a linear layer."""
    for _, layer in model.named_layers():
        if isinstance(layer, (Conv2d, Linear)):
            return _host(model, layer.weight.value)
    raise ConfigError("the model has no layer with a weight")


def block_maps(model: Sequential, image: np.ndarray, scaling: Scaling) -> list[tuple[str, np.ndarray]]:
    """The output (H, W, C) of each block for one image (1, H, W, C)."""
    assert model.flat is not None
    x = model.flat.backend.asarray(image * scaling.scale + scaling.offset, model.flat.dtype)
    found: list[tuple[str, np.ndarray]] = []

    def walk(layer: Sequential, x: Any) -> Any:
        for name, child in layer.children():
            if isinstance(child, Sequential) and not isinstance(child, ConvBlock):
                x = walk(child, x)
                continue
            x = child.forward(x, ForwardContext())[0]
            if isinstance(child, ConvBlock):
                found.append((name, _host(model, x)[0]))
        return x

    walk(model, x)
    return found
