"""``gn.train``: the configuration, the folder and the refusals; docs/short_programs.md trains by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gpunet as gn
from gpunet.errors import ConfigError, DataError
from gpunet.experiments import quick


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of the runs that would be trained."""
    found: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quick, "train_run", lambda config, **options: found.append((config, options)))
    return found


def test_the_model_fits_the_data_unless_it_is_named(calls: list[Any]) -> None:
    Path("photos").mkdir()
    Path("wine.csv").touch()
    Path("tables").mkdir()
    (Path("tables") / "train.csv").touch()
    for data, kind in (("photos", None), ("wine.csv", None), ("tables", None), ("photos", "hybrid")):
        gn.train(data, kind, device="cpu")
    gn.train()
    assert [config.kind for config, _ in calls] == ["cnn", "mlp", "mlp", "hybrid", "cnn"]
    assert [config.data.data for config, _ in calls][:2] == [
        str(Path("photos").absolute()),
        str(Path("wine.csv").absolute()),
    ]
    assert calls[-1][0].data.data == "fashion-mnist" and calls[-1][1]["given"] == set()
    assert not list(Path("runs").iterdir()), "an empty folder is not left"


def test_options_are_those_of_the_command(calls: list[Any]) -> None:
    gn.train("photos", image_size=32, filters=(4, 8), epochs=3, run_dir="a", progress=False)
    config, options = calls[0]
    assert (config.data.image_size, config.model.filters, config.training.epochs) == ((32,), (4, 8), 3)
    assert (options["run_dir"], options["progress"]) == (Path("a"), False)
    assert options["given"] == {"data", "image_size", "filters", "epochs"}
    gn.train("photos", preset="quick", run_dir="a")
    assert calls[1][1]["given"] is None and calls[1][1]["progress"] is False, "nobody watches"
    with pytest.raises(ConfigError, match="epoch_count"):
        gn.train("photos", epoch_count=3)


def test_refusals(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old").mkdir()
    (Path("old") / "config.toml").touch()
    with pytest.raises(ConfigError, match="old holds a run: give another run_dir, or go on with gpunet train --resume"):
        gn.train("photos", run_dir="old")
    monkeypatch.undo()
    with pytest.raises(DataError, match="does not exist"):
        gn.train("/no/such/photos", device="cpu", run_dir=Path("old").absolute() / "new")
