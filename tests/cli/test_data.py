"""``gpunet data``: what it asks of the data package and what it prints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
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


def test_pack_and_verify(gpunet_command: Command, tmp_path: Path) -> None:
    pixels, labels = np.arange(2000, dtype=np.uint8).reshape(20, 10, 10), np.arange(20) % 2
    np.savez(tmp_path / "a.npz", X=pixels, y=labels)
    outcome = gpunet_command(
        "data", "pack", "a.npz", "out", "--images-per-shard", 5, "--test-fraction", 0.5, "--verify"
    )
    assert outcome.code == 0
    assert outcome.out == "out: 10 train, 0 validation, 10 test images of 10 x 10 x 1, 2 classes, 4 shards\n"
    assert "a test part of 10 images is split off" in outcome.err
    outcome = gpunet_command("data", "verify", "out")
    lines = outcome.out.splitlines()
    assert outcome.code == 0 and len(lines) == 8
    digest, name = lines[0].split("  ")
    assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    (tmp_path / "out" / "train-00001.npy").write_bytes(b"")
    assert_refused(gpunet_command("data", "verify", "out"), 3, "train-00001.npy is not a readable array")
    assert_refused(gpunet_command("data", "verify", "out", "--data", "out"), 2, "give the folder once")
    assert_refused(gpunet_command("data", "pack", "a.npz", "out"), 1, "out has packed data already")
    assert_refused(gpunet_command("data", "pack", "b.npz", "other"), 3, "b.npz does not exist")
    assert_refused(gpunet_command("data", "pack", "a.npz"), 2, "OUT")
    outcome = gpunet_command("data", "pack", "a.npz", "more", "--json", "-q")
    assert json.loads(outcome.out)["images"] == {"train": 16, "validation": 0, "test": 4}
