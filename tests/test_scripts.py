"""The example programs, end to end, on a small data set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gpunet as gn
from gpunet.backend import CPU
from tests.support import save_brightness_data

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    return save_brightness_data(path, train=360, test=90, spread=60, step=60)


def run(script: str, *options: object) -> list[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), "--device", "cpu", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_mlp_from_scratch(data: Path, tmp_path: Path) -> None:
    lines = run(
        "mlp_from_scratch.py",
        "--data",
        data,
        "--out",
        tmp_path / "new",
        "--epochs",
        4,
        "--lr",
        0.01,
        "--batch-size",
        10,
    )
    assert len([line for line in lines if line.startswith("epoch ")]) == 4
    assert accuracy(lines[-1], "test accuracy ") > 0.9
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"learning_curves.png", "confusion_matrix.png"}


def test_the_loop_of_the_script_is_the_trainers(data: Path, tmp_path: Path) -> None:
    """The same seed, batches and schedule give the loss of the first epoch that a Trainer gives, to its last digit."""
    options = ("--epochs", 1, "--batch-size", 10, "--lr", 0.01, "--dropout", 0.25, "--activation", "tanh")
    lines = run("mlp_from_scratch.py", "--data", data, "--out", tmp_path, *options)
    train, _ = gn.data.load(data)
    parts = gn.data.split(train, fraction=0.2, seed=0)
    loaders = [gn.data.Loader(part.images, part.labels, backend=CPU) for part in (parts.train, parts.validation)]
    model = gn.models.MLP((64, 128, 64, 3), "tanh", dropout=0.25).initialize(seed=0, device="cpu")
    config = gn.training.TrainingConfig(epochs=1, batch_size=10, lr=0.01, weight_decay=0.01)
    (record,) = gn.training.Trainer(model, config, train=loaders[0], validation=loaders[1]).fit().records
    wanted = f"train loss {record['train_loss']:.4f}  validation loss {record['validation_loss']:.4f}"
    assert wanted in next(line for line in lines if line.startswith("epoch "))


def test_cnn_feature_extraction(data: Path, tmp_path: Path) -> None:
    lines = run("cnn_feature_extraction.py", "--data", data, "--out", tmp_path, "--filters", 4, 8, "--epochs", 12)
    assert accuracy(lines[-3], "CNN    test accuracy ") > 0.9
    assert accuracy(lines[-2], "hybrid test accuracy ") > 0.9
    names = {"cnn_confusion_matrix.png", "hybrid_confusion_matrix.png", "features.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_ops_on_arrays() -> None:
    lines = run("ops_on_arrays.py")
    slopes = next(line for line in lines if line.startswith("slope")).replace(",", "").split()
    assert slopes[3] == slopes[7]
    assert [float(word.strip("[]")) for word in " ".join(lines[-3:]).replace("[", " ").replace("]", " ").split()] == [
        1, 0, -1, 2, 0, -2, 1, 0, -1
    ]  # fmt: skip


def accuracy(line: str, start: str) -> float:
    assert line.startswith(start), line
    return float(line.removeprefix(start).partition("%")[0]) / 100
