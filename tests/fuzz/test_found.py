"""What the campaigns found, as files written out: each ends in one error that names the file and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import CheckpointError, DataError
from gpunet.experiments import report, reproduce
from gpunet.experiments.inference import load_class_names, load_model
from gpunet.experiments.published import load_published
from gpunet.files import parse_json
from gpunet.sweep.table import OK, Outcome
from gpunet.sweep.trial import read_outcome
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from gpunet.training.history import History
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
        ("result.json", report._json, CheckpointError),
        ("metrics.jsonl", report._history, CheckpointError),
        ("metrics.jsonl", lambda path: History(path).restore(1), CheckpointError),
        ("result.json", lambda path: reproduce.read_run(path.parent), CheckpointError),
        ("trial.json", lambda path: read_outcome(path.parent), DataError),
        ("published.json", load_published, DataError),
    ],
    ids=["result", "report", "history", "reproduction", "trial", "published"],
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
        ({"validation_accuracy": "0.9"}, "validation_accuracy is '0.9'"),
        ({"validation_accuracy": 10**400}, "validation_accuracy is 1000"),
        ({"validation_accuracy": None}, "it has no validation_accuracy"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"parameters": True}, "parameters is True"),
        ({"stage": None}, "stage is None"),
        ({"status": "odd"}, 'expected a JSON object with a status, "ok" or "failed"'),
        ({"extra": 1}, "unknown entry 'extra'"),
        ({"error": "\ud800"}, ".*surrogates not allowed"),
    ],
)
def test_outcome_of_a_trial(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    good = Outcome(OK, 0.9, 0.1, 2, "cnn", 3, 70, "", 1.5, 200.0)
    path = tmp_path / "trial.json"
    path.write_text(json.dumps(asdict(good)))
    assert read_outcome(tmp_path) == good
    path.write_text(json.dumps(asdict(good) | changes))
    with pytest.raises(DataError, match=f"cannot be read as the outcome of a trial: {message}"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"test_total": 0},
        {"test_total": "9"},
        {"test_correct": -1},
        {"test_correct": 10**400},
        {"validation_accuracy": None},
    ],
)
def test_result_of_a_reproduction(tmp_path: Path, changes: dict[str, Any]) -> None:
    good = {"seed": 0, "test_correct": 9, "tta_correct": None, "test_total": 10, "parameters": 7}
    good["validation_accuracy"] = 0.5
    path = tmp_path / "result.json"
    path.write_text(json.dumps(good))
    assert reproduce.read_run(tmp_path).accuracy == 0.9
    path.write_text(json.dumps(good | changes))
    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} must be a number in its range"):
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
        ({"input_shape": ["2", 2, 1]}, "input_shape must be three positive whole numbers"),
        ({"input_shape": 3}, "input_shape must be three positive whole numbers"),
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
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: its metadata are no JSON object"):
        load_checkpoint(tmp_path / "a")
