"""The figures: their numbers against scikit-learn, what is drawn where, and files whole or not at all."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gpunet.errors import DataError, OutputError, ShapeError
from gpunet.report import charts, figures
from gpunet.report.metrics import calibration
from tests.filesystem import largest_file, read_only_folder
from tests.support import assert_close, saved_figures

RNG = np.random.default_rng(0)
NAMES = ("T-shirt/top", "cost in $ and 100 % of _x_^2$", "čáp")
MATRIX = np.array([[8, 1, 1], [0, 5, 0], [4, 2, 4]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return saved_figures(monkeypatch)


def check_png(path: Path) -> None:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.ptp(np.asarray(image.convert("L"))) > 100  # something is on it
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def texts(figure: Figure) -> list[str]:
    """All that is written inside the axes and above them."""
    found = [figure.get_suptitle()] if figure.get_suptitle() else []
    for axes in figure.axes:
        found += [axes.get_title(), *(text.get_text() for text in axes.texts)]
    return [text for text in found if text]


def pictures(figure: Figure) -> list[np.ndarray]:
    """The pictures of a sheet in the order in which they are read; none covers another."""
    images = figure.axes[0].images
    boxes = [image.get_window_extent() for image in images]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])
    order = sorted(range(len(boxes)), key=lambda place: (-round(boxes[place].y0 + boxes[place].y1), boxes[place].x0))
    return [np.asarray(images[place].get_array()) for place in order]


def history(epochs: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.2 / epoch,
            "validation_loss": 1.1 / epoch,
            "validation_accuracy": 0.9 - 0.01 * (epoch - 3) ** 2,
            "lr": 0.01 / epoch,
            "seconds": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]


class TestLearningCurves:
    def test_curves(self, tmp_path: Path, drawn: list[Figure]) -> None:
        figures.plot_learning_curves(history(5), tmp_path / "curves.png")
        check_png(tmp_path / "curves.png")
        loss, accuracy, rate = drawn[0].axes
        lines = {line.get_label(): line.get_ydata() for line in accuracy.lines}
        assert_close(lines["train"], np.array([80, 90, 280 / 3, 95, 96]))
        assert_close(lines["validation"], np.array([86, 89, 90, 89, 86.0]))
        assert_close(loss.lines[0].get_ydata(), 1 / np.arange(1.0, 6))
        assert_close(rate.lines[0].get_ydata(), 0.01 / np.arange(1.0, 6))
        assert "best: 90.00 % (epoch 3)" in lines
        assert [tick for tick in loss.get_xticks() if tick != round(tick)] == []

    @pytest.mark.parametrize("epochs", [1, 100])
    def test_any_length(self, tmp_path: Path, epochs: int) -> None:
        figures.plot_learning_curves(history(epochs), tmp_path / "curves.png")
        check_png(tmp_path / "curves.png")

    def test_gaps(self, tmp_path: Path, drawn: list[Figure]) -> None:
        rows = history(4)
        rows[1]["validation_accuracy"] = None
        rows[2]["validation_accuracy"] = math.nan
        del rows[3]["validation_accuracy"]
        figures.plot_learning_curves(rows, tmp_path / "curves.png")
        labels = [line.get_label() for line in drawn[0].axes[1].lines]
        assert "best: 86.00 % (epoch 1)" in labels

    def test_without_validation(self, tmp_path: Path) -> None:
        rows = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}]
        figures.plot_learning_curves(rows, tmp_path / "curves.png")
        check_png(tmp_path / "curves.png")

    def test_stages_are_counted_on_and_named(self, tmp_path: Path, drawn: list[Figure]) -> None:
        rows = [{"stage": "cnn", **row} for row in history(3)] + [{"stage": "joint", **row} for row in history(2)]
        figures.plot_learning_curves(rows, tmp_path / "curves.png")
        for axes in drawn[0].axes:
            assert [text.get_text() for text in axes.texts] == ["cnn", "joint"]
            assert_close(axes.lines[0].get_xdata(), np.arange(1.0, 6))
            starts = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
            assert {0.5, 3.5} <= set(starts)
            assert axes.get_xlim()[0] <= 0.5, "the name of the first stage is beside its curves"

    def test_what_label_smoothing_adds_to_the_training_loss_is_subtracted(self) -> None:
        # torch.nn.CrossEntropyLoss(label_smoothing=0.1) of the logarithms of the smoothed labels of 10 classes
        smoothed = np.array([0.91] + 9 * [0.01])
        least = float(-(smoothed * np.log(smoothed)).sum())
        assert charts.least_loss(0.1, 10) == pytest.approx(least)
        plain, known, unknown = (
            charts.draw_curves(history(3), "loss", **options)
            for options in ({}, {"label_smoothing": 0.1, "classes": 10}, {"label_smoothing": 0.1})
        )
        for axes, shift, label in (
            (plain, 0.0, "train"),
            (known, least, "train - 0.50 (label smoothing)"),
            (unknown, 0.0, "train (with label smoothing)"),
        ):
            train, validation = axes.lines[:2]
            assert_close(train.get_ydata(), 1 / np.arange(1.0, 4) - shift)
            assert_close(validation.get_ydata(), 1.1 / np.arange(1.0, 4))
            assert [text.get_text() for text in axes.get_legend().get_texts()] == [label, "validation"]
        accuracy = charts.draw_curves(history(3), "accuracy", label_smoothing=0.1, classes=10)
        assert_close(accuracy.lines[0].get_ydata(), np.array([80, 90, 280 / 3]))

    def test_no_epochs(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no epoch has been recorded"):
            figures.plot_learning_curves([], tmp_path / "curves.png")
        assert list(tmp_path.iterdir()) == []


class TestConfusionMatrix:
    def test_percentages(self, tmp_path: Path, drawn: list[Figure]) -> None:
        figures.plot_confusion_matrix(MATRIX, NAMES, tmp_path / "matrix.png")
        check_png(tmp_path / "matrix.png")
        axes = drawn[0].axes[0]
        written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
        assert written == {
            (0, 0): "80.0",
            (0, 1): "10.0",
            (0, 2): "10.0",
            (1, 1): "100",
            (2, 0): "40.0",
            (2, 1): "20.0",
            (2, 2): "40.0",
        }
        assert_close(np.asarray(axes.images[0].get_array()), 100 * MATRIX / MATRIX.sum(axis=1, keepdims=True))
        assert axes.get_title() == "Confusion matrix: accuracy 68.00 % of 25 images"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
        assert [text.get_text() for text in axes.get_yticklabels()] == [
            f"{NAMES[0]} (10)",
            f"{NAMES[1]} (5)",
            "čáp (10)",
        ]

    def test_class_without_images(self, tmp_path: Path) -> None:
        for matrix in (np.diag([3, 0, 2]), np.zeros((3, 3), int)):
            figures.plot_confusion_matrix(matrix, NAMES, tmp_path / "matrix.png")
            check_png(tmp_path / "matrix.png")

    def test_many_classes(self, tmp_path: Path) -> None:
        matrix = np.eye(100, dtype=int)
        names = [f"class {number}" for number in range(100)]
        figures.plot_confusion_matrix(matrix, names, tmp_path / "matrix.png")
        check_png(tmp_path / "matrix.png")

    @pytest.mark.parametrize("function", [figures.plot_confusion_matrix, figures.plot_per_class_metrics])
    def test_names_that_do_not_fit(self, tmp_path: Path, function: Callable[..., None]) -> None:
        with pytest.raises(ShapeError, match="a confusion matrix of 3 classes does not fit 2 class names"):
            function(MATRIX, NAMES[:2], tmp_path / "a.png")
        with pytest.raises(ShapeError, match="expected a square confusion matrix"):
            function(MATRIX[:2], NAMES, tmp_path / "a.png")


class TestPerClassMetrics:
    def test_bars_are_sorted(self, tmp_path: Path, drawn: list[Figure]) -> None:
        figures.plot_per_class_metrics(MATRIX, NAMES, tmp_path / "bars.png")
        check_png(tmp_path / "bars.png")
        axes = drawn[0].axes[0]
        bars = {container.get_label(): [bar.get_width() for bar in container] for container in axes.containers}
        # F1: 16/22, 10/13, 8/15: from the bottom to the top classes 2, 0, 1
        assert_close(np.array(bars["F1"]), 100 * np.array([8 / 15, 16 / 22, 10 / 13]))
        assert_close(np.array(bars["recall"]), np.array([40.0, 80.0, 100.0]))
        assert_close(np.array(bars["precision"]), np.array([80.0, 200 / 3, 62.5]))
        assert [text.get_text() for text in axes.get_yticklabels()] == [
            "čáp (10)",
            f"{NAMES[0]} (10)",
            f"{NAMES[1]} (5)",
        ]

    def test_many_classes(self, tmp_path: Path, drawn: list[Figure]) -> None:
        matrix = np.eye(1000, dtype=int)
        matrix[700] = matrix[699]  # the only class that is not recognised
        figures.plot_per_class_metrics(matrix, [str(number) for number in range(1000)], tmp_path / "bars.png")
        axes = drawn[0].axes[0]
        assert "the 40 worst of 1000 classes" in axes.get_title()
        assert axes.get_yticklabels()[0].get_text() == "700 (1)" and len(axes.get_yticklabels()) == 40


class TestFirstLayerFilters:
    def test_sorted_by_norm(self, tmp_path: Path, drawn: list[Figure]) -> None:
        weight = RNG.standard_normal((3, 3, 1, 4)) * np.array([1, 100, 0.01, 10])
        figures.plot_first_layer_filters(weight.astype(np.float32), tmp_path / "filters.png")
        check_png(tmp_path / "filters.png")
        shown = pictures(drawn[0])
        assert len(shown) == 4
        for picture, index in zip(shown, (1, 3, 0, 2), strict=True):
            assert_close(picture, weight[:, :, 0, index].astype(np.float32).astype(float))
        first = drawn[0].axes[0].images[0]
        assert first.norm.vmin == -first.norm.vmax  # zero is white

    def test_linear_layer_is_reshaped(self, tmp_path: Path, drawn: list[Figure]) -> None:
        weight = np.arange(12.0).reshape(12, 1)
        figures.plot_first_layer_filters(weight, tmp_path / "filters.png", (2, 6, 1))
        shown = np.asarray(drawn[0].axes[0].images[0].get_array())
        assert shown.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]

    @pytest.mark.parametrize("shape", [(784, 128), (9, 1), (5, 5, 3, 20), (1, 1, 16, 7), (3, 3, 1, 65)])
    def test_shapes(self, tmp_path: Path, drawn: list[Figure], shape: tuple[int, ...]) -> None:
        figures.plot_first_layer_filters(RNG.standard_normal(shape), tmp_path / "filters.png")
        check_png(tmp_path / "filters.png")
        count = min(shape[-1], 64)
        assert len(pictures(drawn[0])) == count
        many = f"64 of {shape[-1]}" if shape[-1] > 64 else f"{shape[-1]}"
        assert texts(drawn[0])[0] == f"First layer: {many} filters, by norm"

    @pytest.mark.parametrize("value", [0.0, math.nan])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_odd_values(self, tmp_path: Path, value: float, channels: int) -> None:
        figures.plot_first_layer_filters(np.full((3, 3, channels, 2), value), tmp_path / "filters.png")
        with Image.open(tmp_path / "filters.png") as image:
            assert image.format == "PNG"

    def test_bad_shapes(self, tmp_path: Path) -> None:
        with pytest.raises(
            ShapeError, match=r"of 12 inputs does not fit images of shape \(3, 3, 1\); give image_shape"
        ):
            figures.plot_first_layer_filters(np.zeros((12, 4)), tmp_path / "a.png")
        for shape in ((3,), (3, 3, 3), (3, 3, 1, 0)):
            with pytest.raises(ShapeError, match=r"expected a weight \(KH, KW, C, filters\) or \(inputs, units\)"):
                figures.plot_first_layer_filters(np.zeros(shape), tmp_path / "a.png")


class TestFeatureMaps:
    IMAGE = RNG.integers(0, 256, (8, 6, 1), np.uint8)

    def test_channels_that_vary_most(self, tmp_path: Path, drawn: list[Figure]) -> None:
        maps = RNG.standard_normal((4, 3, 20)) * np.arange(20)
        single = np.arange(3.0).reshape(1, 1, 3)
        figures.plot_feature_maps([("block1", maps), ("block2", single)], self.IMAGE, tmp_path / "maps.png")
        check_png(tmp_path / "maps.png")
        titles = [text for text in texts(drawn[0]) if text.isdigit()]
        assert titles[:8] == [str(channel) for channel in np.argsort(-maps.std(axis=(0, 1)))[:8]]
        assert titles[8:] == ["2", "1", "0"]  # a map of one pixel does not vary: by its value
        assert {"input\n8 x 6\n1 channel", "block1\n4 x 3\n20 channels"} <= set(texts(drawn[0]))
        shown = pictures(drawn[0])
        np.testing.assert_array_equal(shown[0], self.IMAGE[..., 0])
        np.testing.assert_array_equal(shown[1], maps[..., int(titles[0])])

    def test_colour_and_not_finite(self, tmp_path: Path) -> None:
        image = RNG.random((8, 6, 3))
        maps = np.full((2, 2, 3), np.nan)
        maps[0, 0, 0] = 1
        figures.plot_feature_maps([("a", maps), ("b", np.full((2, 2, 1), np.nan))], image, tmp_path / "maps.png")
        check_png(tmp_path / "maps.png")

    @pytest.mark.parametrize("channels", [2, 4, 5])
    def test_any_number_of_channels_is_shown_as_their_mean(
        self, tmp_path: Path, drawn: list[Figure], channels: int
    ) -> None:
        image = RNG.integers(0, 256, (4, 5, channels), np.uint8)
        expected = [[sum(map(int, pixel)) / channels for pixel in row] for row in image]
        figures.plot_feature_maps([("block", np.eye(2)[..., None])], image, tmp_path / "maps.png")
        assert f"input\n4 x 5\n{channels} channels" in texts(drawn[0])
        np.testing.assert_allclose(pictures(drawn[0])[0], expected, rtol=0, atol=0.5)
        figures.plot_feature_maps([("block", np.eye(2)[..., None])], image / 255, tmp_path / "maps.png")
        np.testing.assert_allclose(pictures(drawn[1])[0], np.array(expected) / 255, rtol=1e-12)

    def test_bad_shapes(self, tmp_path: Path) -> None:
        good = np.zeros((2, 2, 1))
        with pytest.raises(ShapeError, match="no feature maps were given"):
            figures.plot_feature_maps([], self.IMAGE, tmp_path / "a.png")
        with pytest.raises(ShapeError, match=r"the feature maps of fc must be \(H, W, C\), got shape \(5,\)"):
            figures.plot_feature_maps([("block", good), ("fc", np.zeros(5))], self.IMAGE, tmp_path / "a.png")
        with pytest.raises(ShapeError, match=r"expected an image \(H, W, C\), got shape \(8, 6\)"):
            figures.plot_feature_maps([("block", good)], self.IMAGE[..., 0], tmp_path / "a.png")


class TestConfidentMistakes:
    IMAGES = RNG.integers(0, 256, (5, 4, 4, 1), np.uint8)
    LABELS = np.array([0, 1, 2, 0, 1])
    PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.01, 0.98, 0.01], [0.2, 0.1, 0.7], [0, 1, 0]])

    def draw(self, path: Path, **changes: Any) -> None:
        arguments = {
            "images": self.IMAGES,
            "labels": self.LABELS,
            "predictions": self.PROBABILITIES.argmax(axis=1),
            "probabilities": self.PROBABILITIES,
            "class_names": NAMES,
            **changes,
        }
        figures.plot_confident_mistakes(**arguments, path=path)

    def test_sorted_by_confidence(self, tmp_path: Path, drawn: list[Figure]) -> None:
        self.draw(tmp_path / "mistakes.png")
        check_png(tmp_path / "mistakes.png")
        assert texts(drawn[0]) == [
            "The most confident of 3 mistakes in 5 images (60.00 %): predicted, true",
            f"{NAMES[1]} 98.0 %\ntrue: čáp 1.0 %",
            f"čáp 70.0 %\ntrue: {NAMES[0]} 20.0 %",
            f"{NAMES[0]} 60.0 %\ntrue: {NAMES[1]} 30.0 %",
        ]
        for picture, index in zip(pictures(drawn[0]), (2, 3, 1), strict=True):
            np.testing.assert_array_equal(picture, self.IMAGES[index, ..., 0])

    def test_confidences_alone(self, tmp_path: Path, drawn: list[Figure]) -> None:
        self.draw(tmp_path / "mistakes.png", probabilities=self.PROBABILITIES.max(axis=1))
        assert texts(drawn[0])[1] == f"{NAMES[1]} 98.0 %\ntrue: čáp"

    def test_no_mistakes(self, tmp_path: Path, drawn: list[Figure]) -> None:
        self.draw(tmp_path / "mistakes.png", predictions=self.LABELS)
        check_png(tmp_path / "mistakes.png")
        assert texts(drawn[0]) == ["No mistakes in 5 images"]

    def test_at_most_24(self, tmp_path: Path, drawn: list[Figure]) -> None:
        n = 40
        self.draw(
            tmp_path / "mistakes.png",
            images=RNG.random((n, 4, 4, 3)),
            labels=np.zeros(n, int),
            predictions=np.ones(n, int),
            probabilities=np.full((n, 2), 0.5),
        )
        check_png(tmp_path / "mistakes.png")
        assert len(pictures(drawn[0])) == 24

    def test_lengths_that_differ(self, tmp_path: Path) -> None:
        for changes in (
            {"labels": self.LABELS[:4]},
            {"images": self.IMAGES[:4]},
            {"probabilities": np.zeros((5, 3, 1))},
        ):
            with pytest.raises(ShapeError, match="must have the same length"):
                self.draw(tmp_path / "a.png", **changes)
        with pytest.raises(ShapeError, match="expected an image"):
            self.draw(tmp_path / "a.png", images=self.IMAGES[..., 0])


class TestFeatureMap:
    @pytest.mark.parametrize("shape", [(30, 1), (30, 2, 2, 3), (1, 4), (2, 60)])
    def test_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        features = RNG.standard_normal(shape).astype(np.float32)
        figures.plot_feature_scatter(features, np.arange(len(features)) % 3, NAMES, tmp_path / "map.png")
        check_png(tmp_path / "map.png")

    def test_all_alike(self, tmp_path: Path) -> None:
        figures.plot_feature_scatter(np.ones((9, 4)), np.arange(9) % 3, NAMES, tmp_path / "map.png")
        check_png(tmp_path / "map.png")

    def test_names_are_written_apart(self, tmp_path: Path, drawn: list[Figure]) -> None:
        names = [f"class {number}" for number in range(10)]
        features = np.repeat(np.eye(4)[[0, 0, 0, 0, 0, 0, 0, 1, 2, 3]], 5, axis=0) + 0.01 * RNG.random((50, 4))
        figures.plot_feature_scatter(features, np.repeat(np.arange(10), 5), names, tmp_path / "map.png")
        figure = drawn[0]
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) == 10
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:place])

    def test_bad_input(self, tmp_path: Path) -> None:
        with pytest.raises(ShapeError, match="expected as many features as labels, at least one; got 3 and 2"):
            figures.plot_feature_scatter(np.zeros((3, 2)), np.zeros(2, int), NAMES, tmp_path / "a.png")
        with pytest.raises(ShapeError, match="got 0 and 0"):
            figures.plot_feature_scatter(np.zeros((0, 2)), np.zeros(0, int), NAMES, tmp_path / "a.png")
        with pytest.raises(DataError, match="a feature is NaN or infinite"):
            figures.plot_feature_scatter(np.full((3, 2), np.inf), np.zeros(3, int), NAMES, tmp_path / "a.png")


class TestFile:
    def test_read_only_folder(self) -> None:
        with (
            read_only_folder() as folder,
            pytest.raises(OutputError, match=r"cannot write .*a\.png: Permission denied"),
        ):
            figures.plot_learning_curves(history(2), folder / "a.png")

    def test_full_disk_keeps_the_old_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"old")
        with largest_file(1000), pytest.raises(OutputError, match=r"cannot write .*a\.png: File too large"):
            figures.plot_learning_curves(history(2), tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1

    def test_same_bytes_again_whatever_the_readers_settings(self, tmp_path: Path) -> None:
        import matplotlib

        figures.plot_per_class_metrics(MATRIX, NAMES, tmp_path / "a.png")
        with matplotlib.rc_context({"font.size": 30, "savefig.facecolor": "black", "axes.grid": True}):
            figures.plot_per_class_metrics(MATRIX, NAMES, tmp_path / "b.png")
            assert matplotlib.rcParams["font.size"] == 30  # and these are left as they were
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_glyphs_that_the_font_lacks(self, tmp_path: Path) -> None:
        figures.plot_per_class_metrics(np.eye(2, dtype=int), ["靴", "鞄"], tmp_path / "a.png")
        check_png(tmp_path / "a.png")

    def test_matplotlib_is_imported_late_and_without_pyplot(self, tmp_path: Path) -> None:
        code = (
            "import sys, gpunet.report.figures as figures\n"
            "assert 'matplotlib' not in sys.modules\n"
            "import numpy as np\n"
            "figures.plot_confusion_matrix(np.eye(2), ('a', 'b'), sys.argv[1])\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n"
        )
        root = Path(__file__).parents[2]
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, cwd=root, timeout=120)


class TestInANotebook:
    """Without a path, figures are shown; without axes, charts make their own."""

    def test_figures_are_returned_and_show_themselves(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        probabilities = rng.random((6, 3)).astype(np.float32)
        images, labels = rng.integers(0, 256, (6, 4, 4, 1), np.uint8), np.arange(6) % 3
        drawn = [
            figures.plot_learning_curves(history(3)),
            figures.plot_confusion_matrix(MATRIX, NAMES),
            figures.plot_per_class_metrics(MATRIX, NAMES),
            figures.plot_first_layer_filters(rng.normal(size=(3, 3, 1, 4)).astype(np.float32)),
            figures.plot_feature_maps([("a", rng.normal(size=(4, 4, 2)))], images[0]),
            figures.plot_confident_mistakes(images, labels, probabilities.argmax(1), probabilities, NAMES),
            figures.plot_feature_scatter(rng.normal(size=(6, 5)), labels, NAMES),
        ]
        assert all(isinstance(figure, Figure) and len(figure.axes) >= 1 for figure in drawn)
        data = drawn[0]._repr_png_()  # type: ignore[attr-defined]
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG" and np.ptp(np.asarray(image.convert("L"))) > 100
        assert figures.plot_confusion_matrix(MATRIX, NAMES, tmp_path / "a.png").axes
        check_png(tmp_path / "a.png")

    def test_charts_draw_on_given_axes_or_on_new_ones(self) -> None:
        rng = np.random.default_rng(0)
        found = calibration(np.arange(6) % 3, np.eye(3, dtype=np.float32)[rng.integers(0, 3, 6)])
        for draw, arguments in (
            (charts.draw_curves, (history(3), "loss")),
            (charts.draw_rate, (history(3),)),
            (charts.draw_durations, (history(3),)),
            (charts.draw_compared, ([("a", history(3)), ("b", history(2))], "validation_loss")),
            (charts.draw_reliability, (found,)),
            (charts.draw_confidences, (found,)),
            (charts.draw_map, (rng.normal(size=(6, 2)), np.arange(6) % 3, NAMES)),
            (figures.draw_confusion, (MATRIX, NAMES)),
            (figures.draw_class_metrics, (MATRIX, NAMES)),
        ):
            own = draw(*arguments)  # type: ignore[operator]
            assert own.get_title() or draw is charts.draw_map
            given = Figure().subplots()
            assert draw(*arguments, ax=given) is given and given.has_data()  # type: ignore[operator]
