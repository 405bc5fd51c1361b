"""The figures of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.data.scaling import Scaling
from gpunet.errors import ConfigError
from gpunet.nn import Conv2d, ConvBlock, ForwardContext, Layer, Linear, Sequential
from gpunet.report import figures
from gpunet.report.metrics import confusion_matrix


def plot_evaluation(folder: Path, dataset: Dataset, probabilities: np.ndarray, *, prefix: str = "") -> None:
    """Confusion matrix, per-class metrics and most confident mistakes, as PNG files in `folder`."""
    predictions = probabilities.argmax(1)
    matrix = confusion_matrix(dataset.labels, predictions, dataset.classes)
    names = dataset.class_names
    figures.plot_confusion_matrix(matrix, names, folder / f"{prefix}confusion_matrix.png")
    figures.plot_per_class_metrics(matrix, names, folder / f"{prefix}per_class_metrics.png")
    figures.plot_confident_mistakes(
        dataset.images, dataset.labels, predictions, probabilities, names, folder / f"{prefix}confident_mistakes.png"
    )


def plot_run(
    folder: Path,
    model: Sequential,
    records: Sequence[dict[str, Any]],
    test: Dataset,
    probabilities: np.ndarray,
    scaling: Scaling,
) -> None:
    """All figures of a run: learning curves, those of :func:`plot_evaluation`, filters, and a CNN's feature maps."""
    figures.plot_learning_curves(records, folder / "learning_curves.png")
    plot_evaluation(folder, test, probabilities)
    figures.plot_first_layer_filters(
        first_weight(model), folder / "first_layer_filters.png", image_shape=test.image_shape
    )
    maps = block_maps(model, test.images[:1], scaling)
    if maps:
        figures.plot_feature_maps(maps, test.images[0], folder / "feature_maps.png")


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
