"""Figures of sweeps: what is drawn where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from gpunet.errors import DataError, ShapeError
from gpunet.report.feature_figures import LayerMap, plot_layer_maps, plot_probes
from gpunet.report.sweep_figures import Panel, Scatter, draw_panel, plot_gallery, plot_sweep
from gpunet.training.metrics import Accuracy, Metric, RootMeanSquaredError
from tests.support import assert_close

PANEL = Panel("Which?", ["relu", "tanh", "gelu"], [("a", [[0.8, 0.9], [], [0.7]]), ("b", [[0.6, 0.8], [0.5, 0.5], []])])
PANEL = replace(PANEL, name="activation", series_name="width")
SCATTER = Scatter("How much?", "lr", [(1e-3, 0.8), (1e-1, 0.6)], log=True)


def check(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


def bars(axes: Axes) -> dict[float, tuple[float, list[float] | None, str, float | None]]:
    """For each height: the mean, the ends of the bar, the marker and its opacity."""
    found = {}
    for container in axes.containers:
        line, _, segments = container.lines
        (mean,), (height,) = line.get_xdata(), line.get_ydata()
        spread = list(segments[0].get_segments()[0][:, 0]) if segments else None
        found[round(float(height), 6)] = (float(mean), spread, line.get_marker(), line.get_alpha())
    return found


def test_means_spreads_and_seeds() -> None:
    axes = Figure().subplots()
    draw_panel(PANEL, axes)
    found = bars(axes)
    assert {height: bar[0] for height, bar in found.items()} == pytest.approx({-0.2: 85, 1.8: 70, 0.2: 70, 1.2: 50})
    # standard deviations: sqrt((5^2 + 5^2) / 1) of 80 and 90; none of a single seed
    assert found[-0.2][1] == pytest.approx([85 - 50**0.5, 85 + 50**0.5])
    assert found[1.8][1] is None
    dots = [line for line in axes.lines if line.get_markersize() == 3]
    assert sorted(value for line in dots for value in line.get_xdata()) == pytest.approx([50, 50, 60, 70, 80, 80, 90])
    failed = [text for text in axes.texts if text.get_text() == "failed"]
    assert [text.get_position()[1] for text in failed] == pytest.approx([1 - 0.2, 2 + 0.2])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["relu", "tanh", "gelu"]
    assert axes.yaxis_inverted(), "the first value is on top"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["width:", "a", "b"]
    assert "activation" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("metric", [Accuracy(), RootMeanSquaredError()])
def test_the_best_and_what_is_wholly_worse_are_marked(metric: Metric) -> None:
    sign = 1 if metric.maximize else -1
    results = [[0.5 + sign * change for change in group] for group in ([0.30, 0.32], [0.29, 0.33], [0.10, 0.12], [0.0])]
    axes = draw_panel(Panel("?", "abcd", [("", results)], metric))
    found = bars(axes)
    assert [found[place][2] for place in range(4)] == ["*", "o", "o", "o"], "the first of equal means is the best"
    # b overlaps the best, c does not, and d has no spread that could be compared
    assert [found[place][3] < 1 for place in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("metric", [Accuracy(), RootMeanSquaredError()])
def test_what_would_squeeze_the_others_is_written(metric: Metric) -> None:
    sign = 1 if metric.maximize else -1
    groups = ([0.70, 0.72], [0.10, 0.10], [0.73, 0.74], [0.75, 0.76])
    axes = draw_panel(Panel("?", "abcd", [("", [[0.5 + sign * v for v in group] for group in groups])], metric))
    assert set(bars(axes)) == {0, 2, 3}
    (text,) = [text for text in axes.texts if text.get_text()]
    assert text.get_text() == ("60.00 \N{PLUS-MINUS SIGN} 0.00" if metric.percent else "0.4 \N{PLUS-MINUS SIGN} 0")
    assert text.get_position()[1] == 1
    # not without a gap, and never half of them
    for some in ([[0.1], [0.2], [0.3], [0.45], [0.5]], [[0.1], [0.1], [0.8], [0.81]]):
        assert len(bars(draw_panel(Panel("?", "abcde"[: len(some)], [("", some)], metric)))) == len(some)


def test_long_titles_and_names_take_several_lines() -> None:
    axes = draw_panel(Panel("word " * 20, ["a name that is longer than the room for it", "b"], [("", [[0.5], [0.6]])]))
    title = axes.get_title().split("\n")
    assert len(title) == 2 and max(map(len, title)) - min(map(len, title)) <= 5
    assert [label.get_text().count("\n") for label in axes.get_yticklabels()] == [1, 0]


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
