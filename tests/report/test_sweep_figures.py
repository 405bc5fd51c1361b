"""Figures of sweeps: what is drawn where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gpunet.errors import DataError, ShapeError
from gpunet.report.feature_figures import LayerMap, plot_layer_maps, plot_probes
from gpunet.report.sweep_figures import Panel, Scatter, draw_panel, plot_gallery, plot_sweep
from tests.support import assert_close

PANEL = Panel("Which?", ["relu", "tanh", "gelu"], [("a", [[0.8, 0.9], [], [0.7]]), ("b", [[0.6, 0.8], [0.5, 0.5], []])])
SCATTER = Scatter("How much?", "lr", [(1e-3, 0.8), (1e-1, 0.6)], log=True)


def check(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


def test_means_spreads_and_seeds() -> None:
    axes = Figure().subplots()
    draw_panel(PANEL, axes)
    first, second = axes.containers
    assert_close(np.array(first.lines[0].get_xdata(), float), np.array([85.0, 70.0]))
    assert_close(np.array(second.lines[0].get_xdata(), float), np.array([70.0, 50.0]))
    # standard deviations: sqrt((5^2 + 5^2) / 1) of 80 and 90; none of a single seed
    segments = first.lines[2][0].get_segments()
    assert_close(segments[0][:, 0], np.array([85 - 50**0.5, 85 + 50**0.5]))
    assert len(segments[1]) == 0 or not np.isfinite(segments[1]).all()
    dots = [line for line in axes.lines if line.get_markersize() == 3]
    assert_close(np.array(dots[0].get_xdata(), float), np.array([80.0, 90.0, 70.0]))
    assert [text.get_text() for text in axes.texts] == ["failed", "failed"]
    assert [text.get_position()[1] for text in axes.texts] == pytest.approx([1 - 0.2, 2 + 0.2])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["relu", "tanh", "gelu"]
    assert axes.yaxis_inverted(), "the first value is on top"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]


def test_scatter() -> None:
    axes = Figure().subplots()
    draw_panel(SCATTER, axes)
    assert_close(np.array(axes.lines[0].get_ydata(), float), np.array([80.0, 60.0]))
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "lr"


def test_files(tmp_path: Path) -> None:
    plot_sweep([PANEL, SCATTER], tmp_path / "a.png")
    plot_gallery([PANEL, SCATTER, PANEL], tmp_path / "b.png", "All", confusion=np.eye(2, dtype=int), class_names="ab")
    plot_gallery([], tmp_path / "c.png", "All", confusion=np.eye(2, dtype=int), class_names="ab")
    for name in "abc":
        check(tmp_path / f"{name}.png")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished trial"):
        plot_sweep([], tmp_path / "a.png")
    with pytest.raises(DataError, match="no sweep has a finished trial"):
        plot_gallery([], tmp_path / "a.png", "All")
    with pytest.raises(ShapeError, match="expected a square confusion matrix"):
        plot_gallery([PANEL], tmp_path / "a.png", "All", confusion=np.zeros((2, 3)), class_names="ab")
    assert list(tmp_path.iterdir()) == []


def test_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **o: (saved.append(self), savefig(self, *a, **o))[0])
    rng = np.random.default_rng(0)
    maps = [LayerMap(name, rng.normal(size=(20, 2)), np.array([0.5, 0.25]), rng.normal(size=(20, 2))) for name in "xy"]
    plot_layer_maps(maps, np.arange(20) % 3, "abc", tmp_path / "a.png")
    plot_probes(["x", "y"], [("kNN", [0.5, 0.75]), ("MLP", [0.6, 0.9])], tmp_path / "b.png")
    check(tmp_path / "a.png")
    check(tmp_path / "b.png")
    titles = [axes.get_title() for axes in saved[0].axes]
    assert titles == ["x: principal components", "x: t-SNE", "y: principal components", "y: t-SNE"]
    assert saved[0].axes[0].get_xlabel() == "first (50.0 % of the variance)"
    assert_close(np.array(saved[1].axes[0].lines[1].get_ydata(), float), np.array([60.0, 90.0]))
