"""Reports of runs with other training images than usual, and of folders that other versions or damage have changed."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import CheckpointError, DataError
from gpunet.experiments.config import merge
from gpunet.experiments.records import read_environment, read_history, read_result
from gpunet.experiments.report import compare, report
from gpunet.experiments.run import train
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from tests.experiments.conftest import Trained
from tests.experiments.saved_runs import probabilities, wilson
from tests.report.pages import Page


@pytest.fixture(scope="module")
def otherwise(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs whose training images are not simply those that are not held out."""
    folder = tmp_path_factory.mktemp("otherwise")
    options: dict[str, dict[str, Any]] = {
        "part": {"train_images": 30},
        "refit": {"refit": True, "keep": "last"},
        "both": {"refit": True, "keep": "last", "train_images": 60, "split_seed": 1, "validation_fraction": 0.25},
    }
    common = {"epochs": 1, "batch_size": 16, "data": str(trained.data)}
    hybrid = {"filters": (2, 3), "classifier_hidden": (3,), "classifier_epochs": 1, "joint_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpunet.experiments.run.plot_run", lambda *arguments: None)
        for name, own in options.items():
            config = merge("mlp", overrides={**common, **own, "hidden": (4,)})
            train(config, run_dir=folder / name, device="cpu", progress=False)
        config = merge("hybrid", overrides={**common, **hybrid, **options["refit"]})
        train(config, run_dir=folder / "hybrid", device="cpu", progress=False)
    return {name: folder / name for name in (*options, "hybrid")}


@pytest.mark.parametrize("name", ["part", "refit", "both", "hybrid"])
def test_the_data_of_a_run_are_those_of_its_options(
    trained: Trained, otherwise: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = otherwise[name]
    table, labels = probabilities(trained, folder)
    correct, total = int((table.argmax(axis=1) == labels).sum()), {"both": 60}.get(name, 48)
    assert report(folder, out=tmp_path / "a.html").runs == {str(folder): (correct, total)}
    text = Page(tmp_path / "a.html").text
    share = f"Validation accuracy {100 * correct / total:.2f} % {wilson(correct, total)}; {total} images, "
    use = "also used to choose the weights" if name == "part" else "which the model was trained on as well (refit)"
    assert share + use in text
    with np.load(trained.data) as arrays:
        parts = {**arrays, "y_train": np.roll(arrays["y_train"], 1)}
    np.savez(tmp_path / "other.npz", **parts)
    with pytest.raises(DataError, match=r"is not the one that the run .* was trained on: its split"):
        report(folder, out=tmp_path / "a.html", data=str(tmp_path / "other.npz"))


def test_comparison_of_runs_with_other_training_images(
    trained: Trained, otherwise: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [trained.folders["mlp"], *otherwise.values()]
    compare(folders, out=tmp_path / "c.html")
    assert "without McNemar" not in caplog.text
    page = Page(tmp_path / "c.html")
    assert "refit was trained on the validation images as well (refit)" in page.text
    assert "part was trained on the validation images" not in page.text
    # 'both' holds out other images
    same = ["mlp-1", "part", "refit", "hybrid"]
    _, *pairs = page.tables["pairs-table"]
    assert [(row[0][0], row[1][0]) for row in pairs] == list(itertools.combinations(same, 2))
    right = {}
    for folder in folders:
        table, labels = probabilities(trained, folder)
        right[folder.name] = table.argmax(axis=1) == labels
    for row in pairs:
        one, other = right[row[0][0]], right[row[1][0]]
        assert (row[2][0], row[3][0]) == (str((one & ~other).sum()), str((other & ~one).sum()))


def test_a_data_set_that_has_become_too_small(trained: Trained, otherwise: dict[str, Path], tmp_path: Path) -> None:
    with np.load(trained.data) as arrays:
        parts = {**arrays, "x_train": arrays["x_train"][:30], "y_train": arrays["y_train"][:30]}
    np.savez(tmp_path / "small.npz", **parts)
    with pytest.raises(DataError, match=r"small\.npz of the run .* has changed: train_images must lie between"):
        report(otherwise["part"], out=tmp_path / "a.html", data=str(tmp_path / "small.npz"))
    folders = [otherwise["part"], trained.folders["mlp"]]
    found = compare(folders, out=tmp_path / "a.html", data=str(tmp_path / "small.npz"))
    assert set(found.runs.values()) == {None}


MISSING = "nothing"
_EPOCH = {
    "epoch": 1, "step": 12, "lr": 0.005, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0,
    "validation_accuracy": 0.5, "seconds": 0.1, "images_per_second": 100.0,
}  # fmt: skip
_RESULT = {"test_correct": 30, "test_total": 60, "device": "cpu", "images_per_second": 9.5, "peak_memory_bytes": 100}
_ENVIRONMENT = {"split_sha256": None, "device": "cpu"}


GOOD: dict[str, dict[str, Any]] = {
    "metrics.jsonl": _EPOCH,
    "result.json": _RESULT,
    "environment.json": _ENVIRONMENT,
}


def accepted(name: str, entry: str, value: Any) -> bool:
    """Whether a value, each of another type than the entry's usual one or out of its bounds, can be shown."""
    if value in (None, MISSING):
        return entry == "step" or (name != "metrics.jsonl" and not entry.startswith("test_"))
    if value == "0.5":
        return entry in {"step", "device", "split_sha256"}
    number = isinstance(value, float) or value == -1
    return entry == "step" or (number and entry in {"train_loss", "validation_loss"})


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", ["0.5", True, [1], {}, None, -1, math.nan, 10**400, MISSING])
def test_records_of_other_versions(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / name
    for entry in GOOD[name]:
        content = {key: old for key, old in {**GOOD[name], entry: value}.items() if old != MISSING}
        path.write_text(json.dumps(content) + "\n")
        read = {"metrics.jsonl": read_history, "result.json": read_result, "environment.json": read_environment}[name]
        where = path if name == "metrics.jsonl" else tmp_path
        if accepted(name, entry, value):
            found = read(where)
            assert json.dumps(found) == json.dumps([content] if name == "metrics.jsonl" else content)
        else:
            with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}.* {entry}"):
                read(where)
    if value != MISSING and value != {}:
        path.write_text(json.dumps(value) + "\n")
        with pytest.raises(CheckpointError, match=r"is not a JSON object|cannot be read as"):
            read(where)


def test_what_is_accepted_can_be_shown(copied: Path, tmp_path: Path) -> None:
    (copied / "config.toml").write_text("[model")
    epoch = {**_EPOCH, "train_loss": math.nan, "validation_loss": -1, "stage": None, "more": [1]}
    (copied / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    (copied / "result.json").write_text(json.dumps({"test_correct": 30, "test_total": 60, "device": None}))
    for environment in ({}, {"images": {"a": [None]}, "device": None}):
        (copied / "environment.json").write_text(json.dumps(environment))
        report(copied, out=tmp_path / "a.html")
        compare([copied], out=tmp_path / "b.html")
    assert "50.00" in Page(tmp_path / "b.html").text


@pytest.mark.parametrize(
    ("name", "entry", "value", "message"),
    [
        ("metrics.jsonl", "validation_loss", "0.5", r"line 1: validation_loss must be a number, got '0\.5'"),
        ("metrics.jsonl", "train_accuracy", 50, r"line 1: train_accuracy must be a number from 0 to 1, got 50"),
        ("metrics.jsonl", "seconds", MISSING, r"line 1 has no seconds: another version or program wrote it"),
        ("metrics.jsonl", "epoch", 1.5, r"epoch must be a whole number of at least 0, got 1\.5"),
        ("metrics.jsonl", "stage", 1, r"stage must be a string, got 1"),
        ("result.json", "test_correct", MISSING, r"result\.json has no test_correct"),
        ("result.json", "test_correct", 61, r"test_correct must be at most test_total, got 61 of 60"),
        ("result.json", "test_total", 0, r"test_correct must be at most test_total, got 30 of 0"),
        ("environment.json", "split_sha256", 3, r"split_sha256 must be a string, got 3"),
    ],
)
def test_what_is_said_of_a_wrong_entry(copied: Path, name: str, entry: str, value: Any, message: str) -> None:
    content = {**GOOD[name], entry: value}
    (copied / name).write_text(json.dumps({key: old for key, old in content.items() if old != MISSING}) + "\n")
    with pytest.raises(CheckpointError, match=message):
        report(copied)
    assert not (copied / "report.html").exists()


def test_a_header_of_another_version(copied: Path) -> None:
    tensors, facts = load_checkpoint(copied / "checkpoint.safetensors")
    save_checkpoint(copied / "checkpoint.safetensors", tensors, {**facts, "validation_accuracy": "0.5"})
    with pytest.raises(CheckpointError, match=r"validation_accuracy must be a number from 0 to 1, got '0\.5'"):
        report(copied)
    config = facts["config"].replace("[training]", "[training]\nwarp = 3")
    save_checkpoint(copied / "checkpoint.safetensors", tensors, {**facts, "config": config})
    with pytest.raises(CheckpointError, match=r"its configuration: \[training\] has no option 'warp'"):
        report(copied)
