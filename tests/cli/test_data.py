"""``gpunet data``: what it asks of the data package and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gpunet.data
from gpunet.errors import DataError
from tests.cli.conftest import Command, assert_refused


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The data package, replaced; the paths it was asked for."""
    paths: list[Any] = []

    def answer(result: Any) -> Any:
        def function(path: Any = None) -> Any:
            paths.append(path)
            if path == Path("bad"):
                raise DataError("train-images-idx3-ubyte is damaged")
            return None if path == Path("empty") else result

        return function

    monkeypatch.setattr(gpunet.data, "fetch", answer(Path("/data")))
    monkeypatch.setattr(gpunet.data, "find", answer(Path("/data")))
    monkeypatch.setattr(gpunet.data, "verify", answer({"b": "01", "a": "02"}))
    return paths


@pytest.mark.parametrize(("action", "out"), [("fetch", "/data\n"), ("path", "/data\n"), ("verify", "01  b\n02  a\n")])
@pytest.mark.parametrize(("words", "path"), [((), None), (("--data", "x"), Path("x"))])
def test_actions(
    gpunet_command: Command, asked: list[Any], action: str, out: str, words: tuple[str, ...], path: Path | None
) -> None:
    outcome = gpunet_command("data", action, *words)
    assert (outcome.code, outcome.out, outcome.err) == (0, out, "")
    assert asked == [path]


@pytest.mark.parametrize("action", ["fetch", "path", "verify"])
@pytest.mark.usefixtures("asked")
def test_damaged_data(gpunet_command: Command, action: str) -> None:
    assert_refused(gpunet_command("data", action, "--data", "bad"), 3, "train-images-idx3-ubyte is damaged")


@pytest.mark.usefixtures("asked")
def test_missing_data(gpunet_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = gpunet_command("data", "path", "--data", "empty")
    assert_refused(outcome, 3, "the Fashion-MNIST files are not in empty; download them with: gpunet data fetch")
    monkeypatch.setattr(gpunet.data, "find", lambda path=None: None)
    assert_refused(gpunet_command("data", "path"), 3, "the Fashion-MNIST files are not in any of the usual locations")
