"""The plots: bars and points where the results are, and files whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from bench import plots, results
from bench.roofline import Roofline
from bench.table import rows
from gpunet.errors import DataError, OutputError
from gpunet.report.canvas import BLUE, VERMILLION
from tests.bench import samples
from tests.support import saved_figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return saved_figures(monkeypatch)


def test_bars(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.bars(rows(samples.ops()), "a title", tmp_path / "bars.png")
    (axes,) = drawn[0].axes
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert np.allclose(ends, [2.5, 0.75, 1.25]) and {bar.get_x() for bar in axes.patches} == {1}
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [BLUE, VERMILLION, BLUE]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "conv2d conv1-1x32@28 forward (pytorch-nhwc)",
        "conv2d conv2-32x64@14 forward (pytorch-nchw)",
        "relu 8 forward (numpy)",
    ]
    assert axes.get_title() == "a title" and axes.yaxis_inverted()
    with Image.open(tmp_path / "bars.png") as image:
        assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100


def test_roofline(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.roofline(rows(samples.ops()), Roofline(50.0, 10.0), "a title", tmp_path / "roofline.png")
    (axes,) = drawn[0].axes
    roof, conv2d, relu = axes.lines
    x, y = roof.get_data()
    assert np.allclose(y, np.minimum(10 * x, 50)) and x.min() < 5 < x.max()  # the ridge is at 5 FLOP/byte
    assert np.allclose(conv2d.get_data(), ([10, 10], [5, 2.5])) and conv2d.get_label() == "conv2d"
    assert np.allclose(relu.get_data(), ([10], [625])) and relu.get_label() == "relu"
    assert (conv2d.get_marker(), conv2d.get_color()) != (relu.get_marker(), relu.get_color())


def test_more_ops_than_colours_are_told_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    many = [samples.result(f"op{number}", "numba", 1.0) for number in range(25)]
    plots.roofline(rows(many), Roofline(50.0, 10.0), "", tmp_path / "roofline.png")
    looks = {(line.get_marker(), line.get_color()) for line in drawn[0].axes[0].lines[1:]}
    assert len(looks) == 25


def test_files_beside_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = samples.write(tmp_path, samples.report("bench", samples.ops()))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    plots.main([])
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "bench-2026-01-02-ratios.png", "bench-2026-01-02-roofline-cpu.png", "bench-2026-01-02.json",
    ]  # fmt: skip
    assert f"written: {path.with_name('bench-2026-01-02-ratios.png')}\n" in capsys.readouterr().out


def test_nothing_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = rows([samples.result("relu", "numba", 1.0)])
    with pytest.raises(DataError, match="no ratios to draw"):
        plots.bars(alone, "", tmp_path / "a.png")
    with pytest.raises(DataError, match="no ops to draw"):
        plots.roofline([], Roofline(1.0, 1.0), "", tmp_path / "a.png")
    with pytest.raises(DataError, match="of kind race, expected bench"):
        plots.draw(samples.write(tmp_path, samples.report("race", [])))
    monkeypatch.setattr(results, "RESULTS", tmp_path / "empty")
    with pytest.raises(DataError, match=r"no result in .*empty yet: run make bench"):
        plots.main([])
    with pytest.raises(OutputError, match="cannot write"):
        plots.bars(rows(samples.ops()), "", tmp_path / "gone" / "a.png")
