"""The short trainings of the campaigns, and the comparison of what they leave behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.training import load_checkpoint
from tests.support import save_brightness_data

MODELS = {
    "mlp": ["--hidden", "8"],
    "cnn": ["--filters", "4", "8"],
    "hybrid": ["--filters", "4", "--classifier-hidden", "6", "--classifier-epochs", "2", "--joint-epochs", "1"],
}
_COMMON = ["--batch-size", "16", "--lr", "0.01", "--ema-decay", "0.9", "--shift", "1", "--device", "cpu", "-q"]
# what differs from run to run
_TIMES = ("seconds", "images_per_second", "run_dir", "peak_memory_bytes")
_OTHERS = ("previous.safetensors", ".lock")

BLANK = "from matplotlib.figure import Figure; Figure.draw = lambda self, renderer: None"
"""Leaves figures blank: only their files count here, and drawing takes most of the time of a run."""


def data_set(folder: Path) -> Path:
    """A small data set of grey pictures, in `folder`."""
    return save_brightness_data(folder / "data.npz", train=120, test=40)


def words(model: str, data: Path, runs: Path, *more: str, epochs: int = 2) -> list[str]:
    """The command that starts the training of `model` in a new folder in `runs`."""
    options = [*MODELS[model], *_COMMON, "--epochs", str(epochs), "--data", str(data), "--runs-dir", str(runs)]
    return ["train", model, *options, *more]


def next_words(model: str, data: Path, runs: Path, *more: str, epochs: int = 2) -> list[str]:
    """The command that resumes the run in `runs` or, if it has not begun, starts one."""
    begun = run_folder(runs)
    if begun is not None:
        return ["train", "--resume", str(begun), "-q", "--device", "cpu", *more]
    shutil.rmtree(runs, ignore_errors=True)
    return words(model, data, runs, *more, epochs=epochs)


def run_folder(runs: Path) -> Path | None:
    """The folder of the run in `runs`; None if it has not begun."""
    found = [path for path in runs.glob("*") if (path / "config.toml").is_file()]
    return found[0] if found else None


def differences(whole: Path, other: Path) -> list[str]:
    """In what two run folders differ, but for times, as sentences; the figures are compared by their names."""
    found = []
    first, second = _files(whole), _files(other)
    found += [f"{name} is only in one of them" for name in sorted(first ^ second)]
    for name in sorted(first & second):
        if _content(whole / name) != _content(other / name):
            found.append(f"{name} differs")
    return found


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in _OTHERS)
    return {str(path.relative_to(folder)) for path in paths}


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        tensors, metadata = load_checkpoint(path)
        return {name: tensor.tobytes() for name, tensor in tensors.items()}, _without_times(metadata)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    return None if path.suffix in (".png", ".html") else path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(entry) for name, entry in value.items() if name not in (*_TIMES, "epoch_seconds")}
    return [_without_times(entry) for entry in value] if isinstance(value, list) else value
