"""Settings that fit the data, and what is said of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.data import Dataset
from gpunet.experiments.config import RunConfig, load, merge
from gpunet.experiments.prepare import RunData, prepare
from gpunet.experiments.recipes import fit_recipe, recipe, warn_of_majority
from gpunet.experiments.run import train

RNG = np.random.default_rng(0)


def images(n: int) -> Dataset:
    return Dataset(np.zeros((n, 2, 2, 1), np.uint8), np.arange(n, dtype=np.int32) % 2, ("a", "b"))


@pytest.mark.parametrize(
    ("kind", "n", "validation", "expected"),
    [
        ("mlp", 100, 25, {"batch_size": 16, "epochs": 200, "lr": 0.0011, "keep": "last"}),
        ("mlp", 1150, 287, {"batch_size": 32, "epochs": 58, "lr": 0.0015, "keep": "last"}),
        ("mlp", 48_000, 12_000, {"batch_size": 256, "epochs": 20, "lr": 0.0042}),
        ("cnn", 3, 1, {"batch_size": 16, "epochs": 60, "lr": 0.013, "keep": "last"}),
        ("cnn", 1150, 287, {"batch_size": 32, "epochs": 43, "lr": 0.025, "keep": "last"}),
        ("hybrid", 48_000, 12_000, {"batch_size": 256, "epochs": 10, "lr": 0.2}),
    ],
)
def test_recipe_is_a_function_of_size_and_kind(kind: str, n: int, validation: int, expected: dict[str, Any]) -> None:
    found = recipe(merge(kind), images(n), validation)
    assert not found.pop("flip") and not found.pop("alternate_flip") and not found.pop("shift") + found.pop("cutout")
    assert found.pop("standardize") == "channel"
    assert found == expected


def test_tables_are_regularised_otherwise(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=RNG.standard_normal((100, 6)), y=np.arange(100) % 2)
    config = merge("mlp", overrides={"data": str(tmp_path / "t.npz")})
    data = prepare(config.data)
    assert data.split.train.is_table
    found, _ = fit_recipe(config, data, set())
    assert (vars(found.model)["dropout"], found.training.label_smoothing) == (0.5, 0.0)
    given, _ = fit_recipe(config, data, {"dropout", "label_smoothing"})
    assert given.model == config.model and given.training.label_smoothing == config.training.label_smoothing


@pytest.fixture
def own(tmp_path: Path) -> tuple[RunConfig, RunData]:
    np.savez(tmp_path / "a.npz", X=RNG.integers(0, 256, (100, 4, 4), np.uint8), y=np.arange(100) % 2)
    config = merge("cnn", overrides={"data": str(tmp_path / "a.npz"), "filters": (2,)})
    return config, prepare(config.data)


def test_given_options_win(own: tuple[RunConfig, RunData], caplog: pytest.LogCaptureFixture) -> None:
    config, data = own
    with caplog.at_level(logging.INFO, "gpunet"):
        found, scaled = fit_recipe(config, data, {"flip", "lr"})
    assert found.data.flip and found.training.lr == config.training.lr == 0.2
    assert found.data.shift == 0 and found.training.batch_size == 16 and found.model == config.model
    text = (
        "settings for 64 images of 4 x 4 x 1: batch size 16, 4 steps an epoch; 60 epochs, 240 updates; the last epoch"
    )
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(text)
    pixels = scaled.scaling.apply(scaled.split.train.images)
    assert abs(pixels.mean(dtype=np.float64)) < 1e-5 and abs(pixels.std(dtype=np.float64) - 1) < 1e-5
    caplog.clear()
    with caplog.at_level(logging.INFO, "gpunet"):
        fit_recipe(config, data, set())
    assert "no augmentation: add --flip" in caplog.messages[1]


def test_fashion_mnist_keeps_its_presets(own: tuple[RunConfig, RunData]) -> None:
    config, data = own[0], replace(own[1], fashion_mnist=True)
    assert fit_recipe(config, data, set()) == (config, data)


def test_recipe_is_recorded_in_new_runs(
    own: tuple[RunConfig, RunData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpunet.experiments.run.plot_run", lambda *arguments: None)
    config = replace(own[0], training=replace(own[0].training, epochs=1))
    fitted = replace(config.training, batch_size=16, keep="last")
    for given, expected in ((None, config.training), ({"epochs", "lr"}, fitted)):
        run_dir = tmp_path / str(given is None)
        train(config, run_dir=run_dir, device="cpu", progress=False, given=given)
        assert load(run_dir / "config.toml").training == replace(expected, shards=1)


def test_majority_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    test = Dataset(np.zeros((5, 1, 1, 1), np.uint8), np.array([1, 1, 0, 1, 2], np.int32), ("a", "b", "c"))
    warn_of_majority(test, 4)
    assert not caplog.messages
    warn_of_majority(test, 3)
    text = "3 of 5 test examples are classified correctly: no more than by always answering 'b'"
    assert [message[: len(text)] for message in caplog.messages] == [text]
