"""Figures of the features of a network's layers: maps of the images, and the accuracy of simple classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpunet.report.canvas import TEN, PathLike, legend_above, page
from gpunet.report.charts import draw_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class LayerMap:
    """Two maps of images as points, by the features of one layer."""

    layer: str
    pca: np.ndarray
    """(n, 2)."""
    shares: np.ndarray
    """(2,): the fractions of the variance along the two directions of `pca`."""
    tsne: np.ndarray
    """(n, 2)."""


def plot_layer_maps(
    maps: Sequence[LayerMap], labels: np.ndarray, class_names: Sequence[str], path: PathLike | None = None
) -> Figure:
    """One row per layer: PCA and t-SNE maps of its features.

    Raises:
        OutputError: `path` cannot be written.
    """
    with page(path, 13, 5.6 * len(maps)) as figure:
        grid = figure.subplots(len(maps), 2, squeeze=False)
        for (left, right), found in zip(grid, maps, strict=True):
            draw_map(found.pca, labels, class_names, left)
            draw_map(found.tsne, labels, class_names, right)
            left.set_title(f"{found.layer}: principal components")
            left.set_xlabel(f"first ({100 * found.shares[0]:.1f} % of the variance)")
            left.set_ylabel(f"second ({100 * found.shares[1]:.1f} %)")
            right.set_title(f"{found.layer}: t-SNE")
            right.set_xticks([])
            right.set_yticks([])
    return figure


def plot_probes(
    layers: Sequence[str], probes: Sequence[tuple[str, Sequence[float]]], path: PathLike | None = None
) -> Figure:
    """Validation accuracy of each probe, (name, fraction for each layer), over the layers.

    Raises:
        OutputError: `path` cannot be written.
    """
    with page(path, 7.5, 4.2) as figure:
        axes = figure.subplots()
        for number, (name, accuracies) in enumerate(probes):
            colour, marker = TEN[number % len(TEN)], _MARKERS[number % len(_MARKERS)]
            axes.plot(
                range(len(layers)), [100 * value for value in accuracies], marker=marker, color=colour, label=name
            )
        axes.set_xticks(range(len(layers)), layers)
        axes.set_ylabel("validation accuracy (%)")
        axes.set_title("Classifiers on the features of each layer")
        legend_above(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure
