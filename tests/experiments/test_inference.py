"""Saved models: what of a checkpoint is refused, and which data fit a model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.cli.main import main
from gpunet.errors import CheckpointError, DataError
from gpunet.experiments.features import analyse
from gpunet.experiments.inference import evaluate, load_class_names, load_model, predict
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from tests.experiments.conftest import CLASS_NAMES, Trained


@pytest.fixture
def arrays(trained: Trained) -> dict[str, Any]:
    """The data set of the runs."""
    with np.load(trained.data) as found:
        return dict(found)


def saved(path: Path, arrays: dict[str, Any]) -> str:
    np.savez(path, **arrays)
    return str(path)


def changed(run: Path, target: Path, change: Any) -> Path:
    """A copy of the checkpoint of `run` after ``change(tensors, metadata)``."""
    tensors, metadata = load_checkpoint(run / "checkpoint.safetensors")
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    metadata = change(tensors, metadata) or metadata
    save_checkpoint(target, tensors, metadata)
    return target


def test_classes_in_another_order(
    trained: Trained, arrays: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained.folders["mlp"]
    for key in ("y_train", "y_test"):
        arrays[key] = (arrays[key] + 1) % 3
    data = saved(tmp_path / "rolled.npz", {**arrays, "class_names": np.roll(CLASS_NAMES, 1)})
    for split in ("test", "train"):
        assert main(["evaluate", str(run), "--data", data, "--split", split, "-q", "--device", "cpu"]) == 3
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == (
            f"gpunet: error: the classes of the model are {', '.join(CLASS_NAMES)}, but those of the data set {data} "
            "are </script>, left <b>, right & up: label 0 means 'left <b>' to the model and '</script>' in the data; "
            "number the labels and order class_names as in training\n"
        )


def test_a_class_of_another_name(trained: Trained, arrays: dict[str, Any], tmp_path: Path) -> None:
    data = saved(tmp_path / "a.npz", {**arrays, "class_names": np.array([*CLASS_NAMES[:2], "else"])})
    with pytest.raises(DataError, match="label 2 means '</script>' to the model and 'else' in the data"):
        evaluate(trained.folders["mlp"], data=data, device="cpu")


def test_classes_without_names(trained: Trained, arrays: dict[str, Any], tmp_path: Path) -> None:
    run = trained.folders["mlp"]
    expected = evaluate(run, device="cpu")
    unnamed = saved(tmp_path / "a.npz", {name: array for name, array in arrays.items() if name != "class_names"})
    assert evaluate(run, data=unnamed, device="cpu") == expected
    other = changed(run, tmp_path / "unnamed.safetensors", lambda _, facts: {**facts, "class_names": ["0", "1", "2"]})
    found = evaluate(other, data=str(trained.data), device="cpu")
    assert (found.correct, found.loss, found.confusion) == (expected.correct, expected.loss, expected.confusion)


def test_own_data_that_have_changed(trained: Trained, arrays: dict[str, Any], tmp_path: Path) -> None:
    data = saved(tmp_path / "a.npz", {**arrays, "class_names": np.roll(CLASS_NAMES, 1)})
    run = Path(shutil.copytree(trained.folders["cnn"], tmp_path / "cnn"))

    def moved(_: Any, facts: dict[str, Any]) -> dict[str, Any]:
        return {**facts, "config": facts["config"].replace(str(trained.data), data)}

    changed(run, run / "checkpoint.safetensors", moved)
    with pytest.raises(DataError, match="label 0 means"):
        analyse(run, device="cpu")
    with pytest.raises(DataError, match="label 0 means"):
        evaluate(run, device="cpu")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("mlp", "linear1.weight"), ("cnn", "block1.norm.running_var"), ("cnn", "block2.conv.weight"), ("hybrid", "")],
)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite(trained: Trained, tmp_path: Path, kind: str, name: str, value: float) -> None:
    names = [key for key in load_checkpoint(trained.folders[kind] / "checkpoint.safetensors")[0] if "model/" in key]
    key = next(key for key in names if key.endswith(name))

    def damage(tensors: dict[str, np.ndarray], _: Any) -> None:
        tensors[key].flat[-1] = value

    file = changed(trained.folders[kind], tmp_path / "a.safetensors", damage)
    label = key.removeprefix("model/")
    with pytest.raises(CheckpointError, match=rf"1 of the \d+ values of {label} in the checkpoint are NaN or infinite"):
        load_model(file, "cpu")


def test_weights_of_another_precision(trained: Trained, tmp_path: Path) -> None:
    def enlarge(tensors: dict[str, np.ndarray], _: Any) -> None:
        tensors["model/linear2.weight"] = tensors["model/linear2.weight"].astype(np.float64)

    file = changed(trained.folders["mlp"], tmp_path / "a.safetensors", enlarge)
    with pytest.raises(CheckpointError, match=r"linear2\.weight .* is float64, this model needs float32"):
        load_model(file, "cpu")


def test_outputs_that_are_not_finite(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def enlarge(tensors: dict[str, np.ndarray], _: Any) -> None:
        for name in tensors:
            if name.startswith("model/") and name.endswith("weight"):
                tensors[name] *= np.float32(1e30)

    file = changed(trained.folders["mlp"], tmp_path / "a.safetensors", enlarge)
    np.save(tmp_path / "bright.npy", np.arange(120, dtype=np.uint8).reshape(10, 12) + 120)
    for words, images in (
        (["evaluate", str(file), "--data", str(trained.data)], "60 of 60 images (loss nan)"),
        (["predict", "--run", str(file), "--invert", "never", str(tmp_path / "bright.npy")], "1 of 1 images"),
    ):
        assert main([*words, "-q", "--device", "cpu"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        assert images in captured.err
    with pytest.raises(CheckpointError, match="class probabilities that are NaN or infinite for 1 of 1"):
        predict(file, [tmp_path / "bright.npy"], device="cpu", invert="never")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "its metadata are not a JSON object"),
        ({"config": None}, "its header has no configuration"),
        ({"config": "= ="}, "is not valid TOML"),
        ({"input_shape": None}, r"input_shape must be \[height, width, channels\], got None"),
        ({"input_shape": ["10", 12, 1]}, "input_shape must be"),
        ({"input_shape": [10, 12]}, "input_shape must be"),
        ({"input_shape": [10, 12, 0]}, "input_shape must be"),
        ({"class_names": 3}, "class_names must be a list of names, got 3"),
        ({"class_names": [1, 2, 3]}, "class_names must be a list of names"),
        ({"class_names": []}, "class_names must be a list of names"),
        ({"class_names": ["a", "b"]}, "is for another architecture"),
        ({"stage": "classifier"}, "needs its CNN"),
    ],
)
def test_headers_of_other_programs(trained: Trained, tmp_path: Path, change: Any, message: str) -> None:
    def replaced(_: Any, facts: dict[str, Any]) -> Any:
        return {**facts, **change} if isinstance(change, dict) else json.loads("[1]")

    file = changed(trained.folders["mlp"], tmp_path / "a.safetensors", replaced)
    with pytest.raises(CheckpointError, match=message):
        load_model(file, "cpu")
    if "class_names" in change and change["class_names"] != ["a", "b"]:
        with pytest.raises(CheckpointError, match="class_names must be a list of names"):
            load_class_names(file)
