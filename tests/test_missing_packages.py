"""With the packages of a plain GPU machine alone, gpunet trains, and every part of the GPU check starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import gpu_check
from tests.offered import ALONE, hook

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process in which only what is offered can be imported, and there is no network."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "sitecustomize.py").write_text(hook())
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, **ALONE, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def said(environment: dict[str, str], *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def _save_images(path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (80, 8, 8), np.uint8), np.arange(80) % 4
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])


def test_they_are_absent(environment: dict[str, str]) -> None:
    assert "No module named 'tensorboardX'" in said(environment, "-c", "import tensorboardX", status=1)
    said(environment, "-c", "import scipy, rich, safetensors, threadpoolctl")


@pytest.mark.slow
def test_a_whole_run(environment: dict[str, str], tmp_path: Path) -> None:
    _save_images(tmp_path / "images.npz")
    options = ["--data", str(tmp_path / "images.npz"), "--runs-dir", str(tmp_path / "runs"), "--device", "cpu"]
    said(environment, "-m", "gpunet", "train", "mlp", "--hidden", "8", "--epochs", "1", "--batch-size", "10", *options)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert {"result.json", "learning_curves.png"} <= {path.name for path in run_dir.iterdir()}
    said(environment, "-m", "gpunet", "train", "--resume", str(run_dir), "--epochs", "2", "--device", "cpu")
    assert json.loads((run_dir / "result.json").read_text())["epochs"] == 2
    refused = said(environment, "-m", "gpunet", "train", "mlp", "--tensorboard", *options, status=2)
    assert "need tensorboardX" in refused and len(list((tmp_path / "runs").iterdir())) == 1, "before anything is done"


@pytest.mark.slow
def test_what_the_gpu_check_runs_starts(environment: dict[str, str]) -> None:
    """Its steps on the CPU; of the tests of a GPU, the collection, which imports all that they import."""
    assert '"steps": 20' in said(environment, "-m", "bench.gpu_step", "--device", "cpu", "--sanitize")
    assert '"compiled"' in said(environment, "-m", "bench.gpu_step", "--device", "cpu", "--compile")
    json.loads(said(environment, "-m", "gpunet", "doctor", "--json"))
    (tests,) = (part for part in gpu_check.parts(quick=True) if part.name == "GPU tests")
    words = [word for word in tests.command[1:] if word != "-q"]
    collected = re.search(
        r"^(\d+)/\d+ tests collected", said(environment, *words, "--collect-only", "-q"), re.MULTILINE
    )
    assert collected is not None and int(collected[1]) > 300


def test_what_is_not_there_is_said_first(environment: dict[str, str], tmp_path: Path) -> None:
    _save_images(tmp_path / "images.npz")
    (tmp_path / "sitecustomize.py").write_text(hook(also=("matplotlib", "threadpoolctl")))
    without = {**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    options = ["--data", str(tmp_path / "images.npz"), "--runs-dir", str(tmp_path / "runs"), "--device", "cpu"]
    small = ["--hidden", "8", "--epochs", "1", "--batch-size", "10", "--threads", "1"]
    text = said(without, "-m", "gpunet", "train", "mlp", *small, *options)
    words = ["without threadpoolctl", "so no figures will be drawn", "epoch", "run folder: "]
    assert [text.count(word) > 0 for word in words] == [True] * 4, text
    empty = {**environment, "GPUNET_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path), "PATH": ""}
    empty.pop("GPUNET_DATA", None)
    refused = said(empty, "-m", "gpunet", "data", "fetch", status=3)
    assert "pooch, which downloads it, cannot be imported" in refused and "Traceback" not in refused
