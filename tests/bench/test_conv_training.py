"""Trainings with each algorithm of convolution: which one is used, and the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import conv_training, results
from bench.conv_training import Training, forced, table
from gpunet.data import DataConfig
from gpunet.experiments.prepare import prepare
from gpunet.ops.conv2d import cpu
from gpunet.ops.geometry import Conv2dGeometry

LAYER = Conv2dGeometry.of((128, 14, 14, 32), (3, 3, 32, 64), padding=1)


def test_algorithms_are_forced() -> None:
    chosen = {}
    for algorithm in conv_training.ALGORITHMS:
        with forced(algorithm):
            chosen[algorithm] = cpu._choose("forward", LAYER)
    assert chosen == {"default": "winograd", "sums": "register_tiling", "gemm": "tap_gemm"}
    assert cpu._choose("forward", LAYER) == "winograd"
    with pytest.raises(ValueError, match="must be one of default, sums, gemm, got 'fft'"), forced("fft"):
        pass


def test_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (320, 28, 28), np.uint8), np.arange(320) % 10
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images[:10], y_test=labels[:10])
    data = prepare(DataConfig(data=str(tmp_path / "d.npz")))
    monkeypatch.setattr(conv_training, "prepare", lambda config: data)
    merge = conv_training.merge
    monkeypatch.setattr(  # a small network
        conv_training, "merge", lambda overrides, **named: merge(overrides={**overrides, "filters": (4, 8)}, **named)
    )
    conv_training.main(["--algorithms", "default", "--epochs", "1", "--seeds", "1", "--save", str(tmp_path)])
    (path,) = tmp_path.glob("conv-training-*.json")
    (one,) = results.load(path)["results"]
    assert (one["algorithm"], one["seed"], one["epochs"]) == ("default", 0, 1)
    assert 0 <= one["accuracy"] <= 1 and one["loss"] > 1 and one["seconds"] >= 0
    assert "| default " in capsys.readouterr().out


def test_table() -> None:
    found = [Training("default", seed, 4, share, 0.25, 9.0) for seed, share in enumerate((0.90, 0.92))]
    lines = table([*found, Training("sums", 0, 4, 0.915, 0.5, 12.0)]).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("default", "2", "4", "91.00", "1.41", "90.00 92.00", "0.2500", "9")
    ]
    assert [cell.strip() for cell in lines[3].split("|")[1:6]] == ["sums", "1", "4", "91.50", ""]
