"""What the campaigns found, as files written out: each ends in one error that names the file and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import CheckpointError, DataError
from gpunet.experiments import records, reproduce
from gpunet.experiments.inference import load_class_names, load_model
from gpunet.experiments.published import load_published
from gpunet.files import parse_json
from gpunet.sweep.trial import read_outcome
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from tests.fuzz.targets import targets
from tests.memory import at_most

DEEP = "[" * 100_000


def test_deep_nesting() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)


def test_characters_of_json() -> None:
    assert parse_json(rb'"\ud83d\ude00 \uD55C"') == "\U0001f600 \ud55c"
    for half in (r"\ud83d", r"\uDE00"):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            parse_json(f'{{"a": ["{half}"]}}')


@pytest.mark.parametrize("content", [DEEP, "{", "[1]", "3", '"\\ud800', "\xff"])
@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("result.json", lambda path: records.read_result(path.parent), CheckpointError),
        ("metrics.jsonl", records.read_history, CheckpointError),
        ("result.json", lambda path: reproduce.read_run(path.parent), CheckpointError),
        ("trial.json", lambda path: read_outcome(path.parent), DataError),
        ("published.json", load_published, DataError),
    ],
    ids=["result", "history", "reproduction", "trial", "published"],
)
def test_what_is_no_object_of_json(
    tmp_path: Path, name: str, read: Callable[[Path], Any], error: type[Exception], content: str
) -> None:
    path = tmp_path / name
    path.write_text(content + "\n", encoding="latin-1")
    with pytest.raises(error, match=str(path)):
        read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_total": 0}, "test_correct must be at most test_total, got 9 of 0"),
        ({"test_total": "9"}, "test_total must be a whole number of at least 0, got '9'"),
        ({"test_correct": -1}, "test_correct must be a whole number of at least 0, got -1"),
        ({"validation_accuracy": None}, "validation_accuracy must be a number from 0 to 1, got None"),
    ],
)
def test_result_of_a_reproduction(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good = {"seed": 0, "test_correct": 9, "tta_correct": None, "test_total": 10, "parameters": 7}
    good["validation_accuracy"] = 0.5
    path = tmp_path / "result.json"
    path.write_text(json.dumps(good))
    assert reproduce.read_run(tmp_path).accuracy == 0.9
    path.write_text(json.dumps(good | changes))
    with pytest.raises(CheckpointError, match=message):
        reproduce.read_run(tmp_path)


@pytest.mark.parametrize("predictions", [np.zeros(4, int), np.zeros((3, 1), int), np.zeros(3), np.array(["a"] * 3)])
def test_predictions(tmp_path: Path, predictions: np.ndarray) -> None:
    path = tmp_path / "test_predictions.npz"
    np.savez(path, labels=np.arange(3), predictions=np.array([0, 2, 2]))
    assert reproduce._right(tmp_path).tolist() == [True, False, True]
    np.savez(path, labels=np.arange(3), predictions=predictions)
    with pytest.raises(CheckpointError, match="expected labels and predictions, whole numbers"):
        reproduce._right(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="cannot read the predictions"):
        reproduce._right(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [100_000, 100_000, 1]}, "it has 27 numbers, this model needs 30000000015"),
        ({"hidden": 2_000_000_000}, "it has 27 numbers, this model needs 16000000003"),
        ({"input_shape": ["2", 2, 1]}, r"input_shape must be \[height, width, channels\]"),
        ({"input_shape": 3}, r"input_shape must be \[height, width, channels\]"),
        ({"class_names": [1, 2, 3]}, "class_names must be a list of names"),
        ({"class_names": "abc"}, "class_names must be a list of names"),
    ],
)
def test_metadata_of_a_model(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(next(target for target in targets(tmp_path) if target.name == "model").seeds[0])
    tensors, metadata = load_checkpoint(path)
    assert load_model(path, "cpu").class_names == load_class_names(path) == ("a", "b", "c")
    hidden = changes.get("hidden")
    config = (
        metadata["config"] if hidden is None else metadata["config"].replace("hidden = [3]", f"hidden = [{hidden}]")
    )
    save_checkpoint(path, tensors, {**metadata, **changes, "config": config})
    with at_most(2**22), pytest.raises(CheckpointError, match=message):
        load_model(path, "cpu")


def test_a_checkpoint_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(CheckpointError, match="it is a pipe or a device, expected a regular file"):
        load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("metadata", [[1], "text", None])
def test_metadata_of_a_checkpoint(tmp_path: Path, metadata: Any) -> None:
    save_checkpoint(tmp_path / "a", {}, metadata)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: its metadata are not a JSON object"):
        load_checkpoint(tmp_path / "a")
