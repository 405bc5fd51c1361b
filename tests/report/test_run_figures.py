"""The figures of a run: whatever prevents one from being drawn is a warning, and the others are drawn."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpunet.backend import CPU
from gpunet.data import Dataset
from gpunet.data.scaling import scaling_of
from gpunet.models import MLP
from gpunet.report.run_figures import plot_evaluation, plot_run
from tests.filesystem import largest_file

ROOT = Path(__file__).parents[2]
ALL = {
    "learning_curves.png",
    "confusion_matrix.png",
    "per_class_metrics.png",
    "confident_mistakes.png",
    "first_layer_filters.png",
}
RECORDS = [{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "lr": 0.1}]


def draw(folder: Path, channels: int = 1) -> None:
    """Draw the figures of an untrained MLP."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 5, channels), np.uint8)
    test = Dataset(images, np.arange(20, dtype=np.int32) % 3, ("a", "b", "c"))
    model = MLP((20 * channels, 3)).initialize(0, device=CPU)
    probabilities = rng.dirichlet(np.ones(3), 20).astype(np.float32)
    plot_run(folder, model, RECORDS, test, probabilities, scaling_of(images, "none"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture, channels: int) -> None:
    draw(tmp_path, channels)
    assert names(tmp_path) == ALL and caplog.messages == []


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with largest_file(100):
        draw(tmp_path)
    assert names(tmp_path) == set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * len(ALL)
    for name in ALL:
        (message,) = (message for message in caplog.messages if message.startswith(f"{tmp_path / name} is not drawn: "))
        assert "File too large" in message


def test_without_matplotlib(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    draw(tmp_path)
    (message,) = caplog.messages
    assert all(str(tmp_path / name) in message for name in ALL)
    assert "are not drawn: figures need matplotlib, which cannot be imported (ModuleNotFoundError: " in message
    assert names(tmp_path) == set()


@pytest.mark.parametrize(("classes", "drawn"), [(1000, True), (1001, False), (10_000, False)])
def test_many_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: int, drawn: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 30).astype(np.int32)
    dataset = Dataset(rng.integers(0, 256, (30, 3, 3, 1), np.uint8), labels, tuple(map(str, range(classes))))
    plot_evaluation(tmp_path, dataset, rng.random((30, classes)).astype(np.float32) / classes, prefix="test_")
    by_class = {"test_confusion_matrix.png", "test_per_class_metrics.png"}
    assert names(tmp_path) == {"test_confident_mistakes.png"} | (by_class if drawn else set())
    assert len(caplog.messages) == (not drawn)
    for message in caplog.messages:
        assert all(str(tmp_path / name) in message for name in by_class)
        assert message.endswith(f"are not drawn: {classes} classes are more than 1000")


SCRIPT = """
import os, sys
from gpunet.report.canvas import page
with page(sys.argv[1], 2, 1) as figure:
    figure.text(0.5, 0.5, "ok")
import matplotlib
print(os.environ["MPLBACKEND"])
print(matplotlib.rcParams["backend"])
"""


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no such backend", "svg"])
def test_the_backend_of_other_programs_is_not_used(tmp_path: Path, backend: str) -> None:
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, own = done.stdout.splitlines()
    assert kept == backend
    assert own == "svg" or backend != "svg", "it stays in force for the caller's own figures"
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (300, 150)
