"""Reports of models that no run folder holds: many classes, colours, no hidden layer; and how numbers are written."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ImageColor
from sklearn.metrics import precision_recall_fscore_support

from gpunet.backend import CPU
from gpunet.data import Dataset
from gpunet.data.loader import Loader
from gpunet.data.scaling import scaling_of
from gpunet.experiments.config import merge, to_dict
from gpunet.models import MLP
from gpunet.nn import summary
from gpunet.report import html
from gpunet.report.canvas import BLUE, drawing
from gpunet.report.data_uri import coloured_uri, filter_uri, picture_uri
from gpunet.report.run_record import RunRecord, SplitResult
from gpunet.report.run_report import run_report
from gpunet.training import evaluate
from tests.report.pages import Page, assert_self_contained, pixels

RNG = np.random.default_rng(5)


def page_of(model: MLP, dataset: Dataset, folder: Path) -> Page:
    """The report of an untrained model."""
    model.initialize(0, device=CPU)
    scaling = scaling_of(dataset.images, "none")
    loader = Loader(dataset.images, dataset.labels, backend=CPU, scale=scaling.scale, offset=scaling.offset)
    found = evaluate(model, loader, keep_probabilities=True)
    assert found.probabilities is not None
    config = to_dict(merge("mlp"))
    facts = RunRecord(folder, "mlp", config, config, [], None, None, model.parameter_count, None, "weights of epoch 0")
    result = SplitResult("validation", dataset, found.loss, found.probabilities)
    layers = summary(model, dataset.image_shape)
    text = run_report(facts, result, model, scaling, loader, layers=layers)
    (folder / "report.html").write_text(text, encoding="utf-8")
    page = Page(folder / "report.html")
    assert_self_contained(page)
    return page


def test_many_classes_and_colours(tmp_path: Path) -> None:
    names = tuple(f"kind {number}" for number in range(30))
    dataset = Dataset(RNG.integers(0, 256, (90, 4, 5, 3), np.uint8), np.arange(90, dtype=np.int32) % 30, names)
    page = page_of(MLP((60, 7, 30)), dataset, tmp_path)
    (matrix,) = (pixels(uri) for alt, uri in page.images if alt.startswith("Confusion matrix of 30 classes"))
    assert matrix.shape == (30, 30, 4)
    assert len(page.tables["classes-table"]) == 32 and len(page.tables["confusions-table"]) == 13
    assert [pixels(uri).shape for alt, uri in page.images if alt.startswith("Filter")] == [(4, 5, 3)] * 7
    index, uri = next((int(alt.split()[1]), uri) for alt, uri in page.images if alt.startswith("Image "))
    np.testing.assert_array_equal(pixels(uri), dataset.images[index])
    assert "No epochs are recorded." in page.text


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_other_channels_are_shown_as_their_mean(tmp_path: Path, channels: int) -> None:
    dataset = Dataset(
        RNG.integers(0, 256, (20, 3, 4, channels), np.uint8), np.arange(20, dtype=np.int32) % 2, ("a", "b")
    )
    page = page_of(MLP((12 * channels, 2)), dataset, tmp_path)
    index, uri = next((int(alt.split()[1]), uri) for alt, uri in page.images if alt.startswith("Image "))
    expected = [[sum(map(int, pixel)) / channels for pixel in row] for row in dataset.images[index]]
    np.testing.assert_allclose(pixels(uri), expected, rtol=0, atol=0.5)


def test_too_many_classes_for_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.report.run_record.confusion_matrix", None)  # its size is the square
    classes = 1001
    labels = np.repeat(np.arange(classes, dtype=np.int32), 2)[:1500]
    dataset = Dataset(RNG.integers(0, 256, (1500, 2, 2, 1), np.uint8), labels, tuple(map(str, range(classes))))
    model = MLP((4, classes))
    page = page_of(model, dataset, tmp_path)
    assert "The matrix of 1,001 classes is too large to be shown." in page.text
    predictions = model((dataset.images / 255).astype(np.float32).reshape(1500, 4)).argmax(axis=1)
    counts = Counter((i, j) for i, j in zip(labels.tolist(), predictions.tolist(), strict=True) if i != j)
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:12]
    shown = [(int(row[0][0]), int(row[1][0]), int(row[2][1] or "")) for row in page.tables["confusions-table"][1:]]
    assert shown == [(i, j, count) for (i, j), count in expected]
    scores = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0.0)
    rows = page.tables["classes-table"][1:-1]
    for column, values in enumerate(scores, 1):
        np.testing.assert_allclose([float(row[column][1] or "nan") for row in rows], values, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_and_no_hidden_layer(tmp_path: Path, count: int) -> None:
    images = RNG.integers(0, 256, (count, 3, 3, 1), np.uint8)
    page = page_of(MLP((9, 2)), Dataset(images, np.zeros(count, np.int32), ("a", "b")), tmp_path)
    assert f"9 values per image, for {count} validation images" in page.text


def test_no_mistakes(tmp_path: Path) -> None:
    model = MLP((4, 2))
    images = RNG.integers(0, 256, (6, 2, 2, 1), np.uint8)
    labels = model.initialize(0, device=CPU)(images.reshape(6, 4).astype(np.float32) / 255).argmax(axis=1)
    page = page_of(model, Dataset(images, labels.astype(np.int32), ("a", "b")), tmp_path)
    assert "There are none: all 6 validation images are classified correctly." in page.text
    assert "confusions-table" not in page.tables


def test_numbers_as_they_are_written() -> None:
    assert html.percent(0.93728) == "93.73\N{NO-BREAK SPACE}%" and html.count(1574122) == "1,574,122"
    assert [html.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") for seconds in (12.54, 228, 7560)] == [
        "12.5 s", "3.8 min", "2.1 h"
    ]  # fmt: skip
    assert [html.setting(value) for value in (True, False, [3, 5], [], 5e-4, None, "relu", 128)] == [
        "yes", "no", "3 5", "none", "0.0005", "–", "relu", "128"
    ]  # fmt: skip
    assert (html.rounded(None), html.rounded(math.nan), html.rounded(0.31304, 2)) == ("–", "–", "0.31")


def test_pictures() -> None:
    for shape in ((3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 4)):
        image = RNG.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(pixels(picture_uri(image)), image.reshape(shape[:2] if shape[-1] == 1 else shape))
    found = pixels(coloured_uri(np.array([[0.0, 2.0, math.nan]]), "viridis", 0, 2))
    ends = matplotlib.colormaps["viridis"]([0.0, 1.0], bytes=True)
    np.testing.assert_array_equal(found[0, :2], ends)
    assert found[0, 2, 3] == 0, "what is not a number is clear"
    assert pixels(coloured_uri(np.ones((2, 2)), "viridis", 1, 1)).shape == (2, 2, 4)
    weight = np.array([-1.0, 0.0, 1.0]).reshape(1, 1, 3)
    assert pixels(filter_uri(weight, 1.0)).tolist() == [[[0, 128, 255]]]
    red, white, blue = (pixels(filter_uri(np.full((1, 1, 1), value), 1.0))[0, 0] for value in (-1.0, 0.0, 1.0))
    assert red[0] > red[2] and blue[2] > blue[0] and white[:3].min() > 240


def test_a_drawing_takes_the_colours_of_its_page() -> None:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=BLUE)
        axes.set_title("a < b & $c$")

    text = drawing(draw, 3, 2, name="one", description='1 < "2"')
    assert text.startswith('<svg viewBox="0 0 216 144" role="img" aria-label="1 &lt; &quot;2&quot;">')
    assert "stroke: var(--blue)" in text and "fill: currentColor" in text
    assert "a &lt; b &amp; $c$" in text and "://" not in text
    for colour in (BLUE, "black", "white"):
        assert "#{:02x}{:02x}{:02x}".format(*ImageColor.getrgb(colour)) not in text, colour
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert drawing(draw, 3, 2, name="one", description='1 < "2"') == text, "whatever the reader's settings"
