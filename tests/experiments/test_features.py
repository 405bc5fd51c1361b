"""Features of a trained CNN: what is measured, on which images, and what comes out of known features."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gpunet.backend import CPU
from gpunet.cli.main import main
from gpunet.data import DataConfig
from gpunet.errors import ConfigError
from gpunet.experiments import features
from gpunet.experiments.features import PROBES, analyse
from gpunet.experiments.inference import load_model
from gpunet.experiments.prepare import prepare


@pytest.fixture(scope="module")
def run_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    words = [
        "--data",
        data,
        "--filters",
        2,
        3,
        "--epochs",
        1,
        "--batch-size",
        16,
        "--device",
        "cpu",
        "--runs-dir",
        folder,
    ]
    assert main(["train", "cnn", *map(str, words), "-q"]) == 0
    (found,) = folder.iterdir()
    return found


def test_table_and_figures(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: Path) -> None:
    words = ["features", run_dir, "--out", tmp_path, "--train-images", 60, "--map-images", 30, "--device", "cpu", "-q"]
    assert main([*map(str, words), "--json"]) == 0
    probes = json.loads(capsys.readouterr().out)["probes"]
    with (tmp_path / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["layer"], row["probe"]) for row in rows] == [(n, p) for n in ("block1", "block2") for p in PROBES]
    assert [row["features"] for row in rows] == ["32"] * 4 + ["12"] * 4, "4 x 4 x 2, then 2 x 2 x 3"
    assert {(row["train_images"], row["validation_images"]) for row in rows} == {("60", "36")}
    assert [float(row["validation_accuracy"]) for row in rows] == [probe["validation_accuracy"] for probe in probes]
    for name in ("feature_maps_of_layers.png", "feature_probes.png"):
        with Image.open(tmp_path / name) as picture:
            picture.verify()

    # the linear probe, done here with scikit-learn on the features that the model gives
    saved = load_model(run_dir, "cpu")
    parts = prepare(DataConfig(data=str(data))).split
    chosen = parts.train.take(features._subset(parts.train, 60, 0))
    assert np.bincount(chosen.labels).tolist() == [20, 20, 20]

    def of(images: np.ndarray) -> np.ndarray:
        x = images * saved.scaling.scale + saved.scaling.offset
        return saved.model.extract_features(x.astype(np.float32), "block2").reshape(len(x), -1)

    scaler = StandardScaler().fit(of(chosen.images))
    classifier = LogisticRegression(C=0.01, max_iter=200).fit(scaler.transform(of(chosen.images)), chosen.labels)
    expected = classifier.score(scaler.transform(of(parts.validation.images)), parts.validation.labels)
    # one image more or less where a rounding decides
    assert abs(probes[5]["validation_accuracy"] - expected) <= 1 / 36 + 1e-9


def test_outputs_of_layers_are_those_of_the_network(run_dir: Path, data: Path) -> None:
    saved = load_model(run_dir, "cpu")
    images = prepare(DataConfig(data=str(data))).split.validation
    cnn = features._cnn(saved, run_dir)
    names = features._ordered(cnn, ["features", "block1", "block1"])
    assert names == ["block1", "features"], "in the order of the network, each once"
    x = (images.images * saved.scaling.scale + saved.scaling.offset).astype(np.float32)
    for name, found in zip(names, features._outputs(cnn, names, images, saved), strict=True):
        # one multiplication and addition more or less in the scaling, in float32
        assert_allclose(found, saved.model.extract_features(x, name).reshape(len(x), -1), rtol=1e-4, atol=1e-4)


def test_every_probe_tells_clear_groups_apart() -> None:
    x, y = make_blobs(300, 20, centers=3, cluster_std=1.0, random_state=0)
    x, y = StandardScaler().fit_transform(x), y.astype(np.int32)
    for probe in PROBES[:3]:
        assert features._accuracy(probe, (x[:200], x[200:]), (y[:200], y[200:]), 0) == 1.0, probe
    assert features._mlp(x[:200], y[:200], x[200:], y[200:], CPU, 3, 0) == 1.0


def test_bad_input(run_dir: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no layer 'block9': expected one of block1, block2, features"):
        analyse(run_dir, layers=["block9"], out=tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="2 images are too few for 3 classes"):
        analyse(run_dir, train_images=2, out=tmp_path, device="cpu")
    words = ["--data", data, "--hidden", 4, "--epochs", 1, "--device", "cpu", "--runs-dir", tmp_path, "-q"]
    assert main(["train", "mlp", *map(str, words)]) == 0
    with pytest.raises(ConfigError, match="contains an MLP: features are analysed for a CNN or a hybrid"):
        analyse(next(tmp_path.glob("mlp-*")), device="cpu")
