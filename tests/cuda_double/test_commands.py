"""The command line on the second of two devices, from training to report; its bits are those of the emulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpunet.experiments import run as experiments
from gpunet.experiments.config import from_toml
from gpunet.training import load_checkpoint
from tests.cuda_double.build import Double, Unavailable, build
from tests.cuda_double.run import run
from tests.emulator import RUNTIME, SECOND, missing
from tests.support import save_brightness_data

pytestmark = [pytest.mark.slow, pytest.mark.network]

OPTIONS = "train cnn --filters 4 8 --batch-size 16 --lr 0.01 --shift 1 --epochs 2 -q --checkpoint-minutes 60"
INTERRUPTED = """
import sys
from gpunet.training import trainer
save = trainer.Trainer._save_last
def saved(self, *args, **options):
    save(self, *args, **options)
    raise KeyboardInterrupt
trainer.Trainer._save_last = saved
from gpunet.cli.main import entry_point
entry_point()
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``commands(*words, status=0)``: what gpunet prints on the double, on ``cuda:1``."""
    try:
        double: Double = build()
    except Unavailable as error:
        pytest.skip(str(error))

    def said(*words: object, status: int = 0, start: tuple[str, ...] = ("-m", "gpunet")) -> str:
        command = [*start, *map(str, words), "--device", "cuda:1"]
        done = run(double, command, devices=2, capture_output=True, timeout=300)
        assert done.returncode == status, done.stdout + done.stderr
        assert "cuda double:" not in done.stderr
        return str(done.stdout)

    return said


def weights(run_dir: Path) -> dict[str, bytes]:
    tensors, _ = load_checkpoint(run_dir / "checkpoint.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def predictions(run_dir: Path) -> dict[str, bytes]:
    with np.load(run_dir / "test_predictions.npz") as arrays:
        return {name: arrays[name].tobytes() for name in arrays.files}


def test_every_command_on_the_second_device(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing():
        pytest.skip(reason)
    data = save_brightness_data(tmp_path / "data.npz", train=64, test=20)
    commands(*OPTIONS.split(), "--data", data, "--runs-dir", tmp_path / "whole")
    (whole,) = (tmp_path / "whole").iterdir()
    assert json.loads((whole / "environment.json").read_text())["device"] == "cuda:1"

    # interrupted after the first epoch, and resumed
    words = [*OPTIONS.split(), "--data", data, "--runs-dir", tmp_path / "cut"]
    commands(*words, start=("-c", INTERRUPTED), status=130)
    (cut,) = (tmp_path / "cut").iterdir()
    assert not (cut / "result.json").exists()
    commands("train", "--resume", cut, "-q")
    assert weights(cut) == weights(whole) and predictions(cut) == predictions(whole)

    # the emulator, without CuPy
    monkeypatch.setattr(experiments, "plot_run", lambda *arguments: None)  # the double has drawn its figures
    RUNTIME.seed = 1
    config = from_toml((whole / "config.toml").read_text())
    emulated = tmp_path / "emulated"
    experiments.train(config, run_dir=emulated, device=SECOND, progress=False)  # type: ignore[arg-type]
    assert weights(emulated) == weights(whole) and predictions(emulated) == predictions(whole)

    found = json.loads(commands("evaluate", whole, "--json"))
    result = json.loads((whole / "result.json").read_text())
    assert (found["correct"], found["total"]) == (result["test_correct"], result["test_total"])
    with np.load(data) as arrays:
        Image.fromarray(arrays["x_test"][0]).save(tmp_path / "picture.png")
    words = ["predict", tmp_path / "picture.png", "--run", whole, "--invert", "never", "--json"]
    (predicted,) = json.loads(commands(*words))["predictions"]
    with np.load(whole / "test_predictions.npz") as arrays:
        assert predicted["label"] == int(arrays["predictions"][0])
    commands("report", whole, "-q")
    assert (whole / "report.html").stat().st_size > 10_000
