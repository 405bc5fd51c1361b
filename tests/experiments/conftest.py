"""Small data, small presets, and trained runs to report on: one of each model, with class names that are no HTML."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.experiments import published
from gpunet.experiments.config import merge
from gpunet.experiments.run import train
from tests.support import save_brightness_data

CLASS_NAMES = ("left <b>", "right & up", "</script>")

_COMMON: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.005, "optimizer": "adam", "flip": False, "shift": 0}
_OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (6,), "standardize": "none"},
    "cnn": {"filters": (4, 9)},
    "hybrid": {"filters": (4, 9), "classifier_hidden": (5,), "classifier_epochs": 1, "joint_epochs": 1},
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three brightnesses."""
    return save_brightness_data(tmp_path_factory.mktemp("data") / "data.npz", train=180, test=60)


@pytest.fixture
def unpublished(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, small presets on small data, and no published results until they are written into it."""
    common: dict[str, Any] = {"data": str(data), "batch_size": 16, "flip": True}
    small = {
        "mlp": {**common, "hidden": (6,), "epochs": 2},
        "cnn": {**common, "filters": (2,), "epochs": 1},
        "hybrid": {**common, "filters": (2,), "epochs": 1, "classifier_epochs": 1, "classifier_hidden": (4,)},
    }
    monkeypatch.setattr("gpunet.experiments.config.PRESETS", {"default": small, "best": small, "quick": small})
    monkeypatch.setattr(published, "PUBLISHED", tmp_path / "gpunet" / "experiments" / "published.json")
    monkeypatch.setattr("gpunet.experiments.run.plot_run", lambda *args: None)  # the figures are tested elsewhere
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Trained:
    """A data set and the folders of the runs on it, by model."""

    data: Path
    folders: dict[str, Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """240 + 60 grey pictures 10 x 12 of three classes that overlap, and a run of each model."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(300) % 3)
    images = rng.integers(0, 160, (300, 10, 12, 1))
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 28
    x, y = images.astype(np.uint8), labels
    path = folder / "stripes.npz"
    np.savez(path, x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:], class_names=np.array(CLASS_NAMES))
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpunet.experiments.run.plot_run", lambda *arguments: None)  # takes longer than the training
        for kind, options in _OPTIONS.items():
            folders[kind] = folder / "runs" / f"{kind}-1"
            config = merge(kind, overrides={**_COMMON, **options, "data": str(path)})
            train(config, run_dir=str(folders[kind]), device="cpu", progress=False)
    return Trained(path, folders)


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the MLP's run folder, without a report."""
    ignored = shutil.ignore_patterns("report.html")
    return Path(shutil.copytree(trained.folders["mlp"], tmp_path / "copied", ignore=ignored))
