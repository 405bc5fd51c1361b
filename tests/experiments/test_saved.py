"""A model as a file: what is saved is what is loaded, and what is missing is said."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpunet as gn
from gpunet.cli.main import main
from gpunet.data.scaling import Scaling, scaling_of, scaling_of_table
from gpunet.errors import CheckpointError, ConfigError, DataError
from gpunet.experiments.config import merge
from gpunet.experiments.inference import evaluate, predict
from gpunet.experiments.prepare import prepare
from gpunet.experiments.saved import load_model
from gpunet.models import CNN, MLP, Hybrid
from gpunet.nn import Flatten, Linear, Random, Sequential
from gpunet.training import Trainer, TrainingConfig, load_checkpoint
from tests.experiments.conftest import CLASS_NAMES, Trained
from tests.experiments.saved_runs import part, probabilities
from tests.training.problems import images, loaders

PLAIN = {"flip": False, "shift": 0}


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def make(kind: str) -> Any:
    if kind == "mlp":
        return MLP((64, 5, 4), "gelu", 0.1).initialize(seed=1)
    cnn = CNN((8, 8, 1), 4, (2, 3), (3, 1), "average", "tanh", batch_norm=False, head=(3,), dropout=0.2)
    model = cnn if kind == "cnn" else Hybrid(cnn, 4, feature_layer="block1", hidden=(5,), activation="leaky_relu")
    return model.initialize(seed=2, dtype="float64")


def test_the_scaling_of_a_table_is_kept(tmp_path: Path) -> None:
    rows = np.array([[1.0, 200.0, 3.0], [2.0, 100.0, 3.0], [6.0, 0.0, 3.0]])
    deviation = rows.std(axis=0)
    standardised = ((rows - rows.mean(axis=0)) / np.where(deviation, deviation, 1)).astype(np.float32)
    model = gn.models.MLP((3, 4, 2)).initialize(seed=0)
    scaling = scaling_of_table(rows.astype(np.float32).reshape(3, 1, 1, 3), "channel")
    gn.save(model, tmp_path / "a.safetensors", scaling=scaling, class_names=["no", "yes"])
    gn.save(gn.load(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    logits = model(standardised).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for name in ("a", "b"):
        found = gn.load(tmp_path / f"{name}.safetensors")
        classes, probabilities = found(rows)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)  # a few roundings of float32
        assert np.array_equal(classes, expected.argmax(1)) and found.of_table and found.class_names == ("no", "yes")


@pytest.mark.parametrize("kind", ["mlp", "cnn", "hybrid"])
def test_a_file_holds_all_of_a_model(kind: str, tmp_path: Path) -> None:
    model, path = make(kind), str(tmp_path / "model.safetensors")
    pixels, _ = images(20, 3)
    scaling = scaling_of(pixels, "pixel")
    gn.save(model, path, scaling=scaling, class_names=["a", "b", "c", "d"], input_shape=(8, 8, 1))
    found = gn.load(path, "cpu")
    assert type(found.model) is type(model) and found.model.flat.dtype == model.flat.dtype
    assert found.class_names == ("a", "b", "c", "d") and found.input_shape == (8, 8, 1)
    assert found.config.model == model.description.config
    assert found.metadata["versions"]["gpunet"] == gn.__version__
    scale, offset = (array.astype(model.flat.dtype) for array in (scaling.scale, scaling.offset))
    expected = softmax(model(pixels * scale + offset))
    classes, given = found(pixels)
    assert np.isfinite(given).all()
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)
    assert (classes == expected.argmax(1)).all() and (found.predict(pixels[..., 0]) == classes).all()
    gn.save(found.model, path, scaling=found.scaling, class_names=found.class_names)
    assert (gn.load(path, "cpu").predict_proba(pixels) == given).all()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "hybrid"])
def test_a_prediction_has_the_same_bits_in_any_batch(kind: str, tmp_path: Path) -> None:
    pixels, _ = images(70, 3)
    gn.save(make(kind), tmp_path / "a.safetensors", scaling=scaling_of(pixels, "none"), input_shape=(8, 8, 1))
    found = gn.load(tmp_path / "a.safetensors", "cpu")
    whole = found.predict_proba(pixels)
    assert np.isfinite(whole).all() and len(np.unique(whole)) > 70
    for size in (1, 7, 33):
        parts = [found.predict_proba(pixels[start : start + size]) for start in range(0, 70, size)]
        assert (np.concatenate(parts) == whole).all()


def test_features_are_used_unchanged(tmp_path: Path) -> None:
    model = MLP((3, 4, 2)).initialize(seed=1)
    gn.save(model, tmp_path / "a.safetensors")
    found = gn.load(tmp_path / "a.safetensors", "cpu")
    x = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(found.predict_proba(x), softmax(model(x.astype(np.float32))), rtol=1e-5)
    assert found.class_names == ("0", "1")
    for wrong, message in (
        (x[:, :2], r"takes arrays \(n, 3\), n >= 1, got shape \(5, 2\)"),
        (x[:0], "n >= 1"),
        (x * np.nan, "finite numbers"),
        ([[1, 2], [3]], "images must be an array"),
        (np.array([["a", "b", "c"]]), "finite numbers, got <U1"),
    ):
        with pytest.raises(DataError, match=message):
            found.predict(wrong)
    with pytest.raises(CheckpointError, match=r"takes inputs \(3,\) unchanged .* save it with scaling="):
        found.predict([tmp_path / "a.png"])


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    path, cnn = tmp_path / "a.safetensors", CNN((8, 8, 1), 3, (2,)).initialize(seed=0)
    scaling = Scaling(np.ones((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32))
    own = Sequential([Flatten(), Linear(4, 2)]).initialize(seed=0)
    moved = CNN((8, 8, 1), 3, (2,)).initialize(seed=0)
    Hybrid(moved, 3).initialize(seed=0)
    for model, options, message in (
        (own, {}, "this Sequential does not say how it was built"),
        (MLP((4, 2), init=Random(scale=7.0)).initialize(seed=0), {}, "this MLP does not say how it was built"),
        (MLP((4, 2)), {}, "has no arrays yet"),
        (moved, {}, "have moved to another model"),
        (cnn, {"scaling": scaling}, r"a scaling \(1, 1, 3\) does not fit the model's inputs \(8, 8, 1\)"),
        (cnn, {"class_names": ["a", "b"]}, "class_names must be 3 different strings"),
        (cnn, {"class_names": ["a", "b", "b"]}, "class_names must be 3 different strings"),
        (cnn, {"input_shape": (8, 4, 2)}, r"takes inputs \(8, 8, 1\), which do not fit input_shape \(8, 4, 2\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            gn.save(model, path, **options)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["mlp", "cnn", "hybrid"])
def test_a_run_folder_is_a_model(trained: Trained, kind: str, tmp_path: Path) -> None:
    run = trained.folders[kind]
    found = gn.load(str(run), "cpu")
    expected, labels = probabilities(trained, run, "test")
    pixels, _ = part(trained, run, "test")
    np.testing.assert_allclose(found.predict_proba(pixels), expected, rtol=1e-4, atol=1e-6)
    assert (found.predict(pixels) == expected.argmax(1)).all() and found.class_names == CLASS_NAMES
    result = evaluate(str(run), device="cpu")
    assert result.correct == (expected.argmax(1) == labels).sum()
    again = pickle.loads(pickle.dumps(found))
    assert (again.predict_proba(pixels) == found.predict_proba(pixels)).all()


def test_pictures_by_their_paths(trained: Trained, tmp_path: Path) -> None:
    run = trained.folders["mlp"]
    pixels, _ = part(trained, run, "test")
    files = []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels[number, ..., 0]).save(files[-1])
    found = gn.load(run, "cpu")
    expected = found.predict_proba(pixels[:2])
    assert (found.predict_proba(files) == expected).all()
    assert (found.predict_proba(Path(files[1])) == expected[1:]).all()
    assert [one.probabilities for one in predict(str(run), files, device="cpu")] == expected.tolist()


def trainer_in(folder: Path, **options: Any) -> Trainer:
    model = CNN((8, 8, 1), 4, (4, 8), dropout=0.1).initialize(seed=0)
    config = TrainingConfig(epochs=2, batch_size=32, lr=5e-3)
    given = loaders(scale=np.full((1, 1, 1), 1 / 255, np.float32))
    given["validation"] = gn.data.Loader(*images(100, 2), scale=np.full((1, 1, 1), 1 / 255, np.float32))
    return Trainer(model, config, **given, run_dir=str(folder), **options)


def test_a_run_of_a_trainer_is_loaded_evaluated_reported_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    names = ["top left", "top right", "bottom left", "bottom right"]
    trainer = trainer_in(run, metadata={"class_names": names})
    trainer.fit()
    pixels, labels = images(60, 7)
    found = gn.load(run, "cpu")
    assert found.class_names == tuple(names) and found.config.training == trainer.config
    expected = softmax(trainer.model(pixels * np.float32(1 / 255)))
    np.testing.assert_allclose(found.predict_proba(pixels), expected, rtol=1e-4, atol=1e-6)
    assert (gn.load(run / "last.safetensors", "cpu").scaling.scale == np.float32(1 / 255)).all()

    data = tmp_path / "data.npz"
    x, y = images(80, 8)
    np.savez(data, x_train=x, y_train=y, x_test=pixels, y_test=labels, class_names=np.array(names))
    result = evaluate(run, data=str(data), device="cpu")
    assert (result.correct, result.total) == (int((expected.argmax(1) == labels).sum()), 60)
    assert main(["report", str(run), "--data", str(data), "--split", "test", "-q", "--device", "cpu"]) == 0
    page = (run / "report.html").read_text()
    assert f"cnn on {data}".lower() in page.lower() and "validation_fraction" not in page
    capsys.readouterr()
    for words in (["evaluate", str(run)], ["evaluate", str(run), "--data", str(data), "--split", "validation"]):
        assert main([*words, "-q", "--device", "cpu"]) == 2
        assert "does not say which data the model was trained on" in capsys.readouterr().err
    again = trainer_in(run, metadata={"class_names": names})
    assert again.resume() and again.epoch == 2


def test_a_run_of_a_model_that_nothing_describes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Sequential([Flatten(), Linear(64, 4)]).initialize(seed=0)
    Trainer(model, TrainingConfig(epochs=1, lr=1e-4), **loaders(), run_dir=str(tmp_path)).fit()
    with pytest.raises(CheckpointError, match="no configuration; a Trainer writes that of a model made by a class"):
        gn.load(tmp_path, "cpu")
    with pytest.raises(ConfigError, match="the metadata have 3 class_names for the 4 classes"):
        trainer_in(tmp_path, metadata={"class_names": ["a", "b", "c"]})
    precise = gn.data.Loader(*images(40, 1), scale=np.full((1, 1, 1), 1 / 255), dtype="float64")
    cnn = CNN((8, 8, 1), 4, (2,)).initialize(seed=0, dtype="float64")
    config = TrainingConfig(epochs=1, dtype="float64", lr=1e-3)
    with caplog.at_level(logging.WARNING, logger="gpunet"):
        Trainer(cnn, config, train=precise, validation=precise, run_dir=tmp_path).fit()
    assert "must be float32 to be stored" in caplog.text
    assert "config" not in load_checkpoint(str(tmp_path / "checkpoint.safetensors"))[1]


@pytest.mark.parametrize("kind", ["range", "table"])
def test_values_of_the_data_set_are_scaled_as_in_training(tmp_path: Path, kind: str) -> None:
    """Pixels of another range, and features of a table: the classes are those that an evaluation counts."""
    from gpunet.experiments.run import train

    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    values = rng.normal(size=(160, 6, 6)) * 2 + labels[:, None, None] * 3 - 40
    if kind == "range":
        path = tmp_path / "data.npz"
        np.savez(path, x_train=values[:120], y_train=labels[:120], x_test=values[120:], y_test=labels[120:])
        inputs = values[120:].astype(np.float32)
    else:
        path = tmp_path / "data.csv"
        rows = [
            ",".join([*(f"{value:.4f}" for value in row[0]), str(label)])
            for row, label in zip(values, labels, strict=True)
        ]
        path.write_text("\n".join([",".join([*"abcdef", "label"]), *rows]) + "\n")
        inputs = None
    config = merge("mlp", overrides={"data": str(path), "hidden": (4,), "epochs": 30, "batch_size": 16, **PLAIN})
    train(config, run_dir=tmp_path / "run", device="cpu", progress=False)
    counted = evaluate(tmp_path / "run", device="cpu")
    if inputs is None:
        test = prepare(load_model(tmp_path / "run", "cpu").config.data).test
        inputs, truth = test.images.reshape(len(test), -1), test.labels
    else:
        truth = labels[120:]
    predicted = gn.load(tmp_path / "run", device="cpu").predict(inputs)
    assert int((predicted == truth).sum()) == counted.correct > len(truth) // 2
