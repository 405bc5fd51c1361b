"""The two example programs, end to end, on a small data set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (rng.integers(0, 60, (90, 8, 8)) + 60 * y[:, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


def run(script: str, *options: object) -> list[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), "--device", "cpu", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_mlp_from_scratch(data: Path, tmp_path: Path) -> None:
    lines = run("mlp_from_scratch.py", "--data", data, "--runs-dir", tmp_path, "--epochs", 1, "--batch-size", 16)
    assert lines[-1].startswith("test accuracy ")
    (run_dir,) = tmp_path.iterdir()
    assert (run_dir / "learning_curves.png").exists()


@pytest.mark.slow
def test_cnn_feature_extraction(data: Path, tmp_path: Path) -> None:
    options = ("--filters", 4, 8, "--epochs", 1, "--classifier-epochs", 1, "--batch-size", 16)
    lines = run("cnn_feature_extraction.py", "--data", data, "--runs-dir", tmp_path, *options)
    assert lines[-2].startswith("CNN    test accuracy ") and lines[-1].startswith("hybrid test accuracy ")
    (run_dir,) = tmp_path.iterdir()
    assert {"feature_map.png", "feature_maps.png", "confusion_matrix.png"} <= {p.name for p in run_dir.glob("*.png")}
    assert (run_dir / "stages" / "1-cnn" / "test_confusion_matrix.png").exists()
