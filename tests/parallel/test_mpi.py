"""Ranks of mpiexec: the run folder of one process, whatever their number, and whoever is killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.experiments.config import load
from gpunet.experiments.run import fit
from gpunet.training.checkpoint import digest, load_checkpoint
from tests.parallel import program
from tests.training.problems import images

ROOT = Path(__file__).parents[2]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module", autouse=True)
def mpi() -> None:
    pytest.importorskip("mpi4py", reason="no MPI: pip install -e '.[mpi]'")
    if MPIEXEC is None:
        pytest.skip("no mpiexec: pip install -e '.[mpi]'")


def store_data(folder: Path) -> Path:
    x, y = images(240, 5)
    np.savez(folder / "data.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    return folder / "data.npz"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of this process."""
    folder = tmp_path_factory.mktemp("alone")
    store_data(folder)
    program.train(folder)
    return folder


def start(ranks: int, *words: Any) -> subprocess.Popen[str]:
    assert MPIEXEC is not None
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu", "NUMBA_NUM_THREADS": "1"}
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", *map(str, words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def contents(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves behind and that is no time."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if path.suffix == ".safetensors" and path.name != "previous.safetensors":
            found[name] = digest(load_checkpoint(path)[0])
        elif path.name == "metrics.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in records
            ]
        elif path.name == "config.toml":
            found[name] = [line for line in path.read_text().splitlines() if not line.startswith("data = ")]
        elif path.name in ("split.npz", "test_predictions.npz", "summary.txt"):
            found[name] = path.read_bytes()
    return found


@pytest.mark.slow
def test_the_runs_of_four_ranks_are_those_of_one(alone: Path, tmp_path: Path) -> None:
    store_data(tmp_path)
    process = start(4, "tests.parallel.program", tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    assert output == ""
    for kind in program.MODELS:
        mine, theirs = tmp_path / kind, alone / kind
        assert contents(mine) == contents(theirs), kind
        assert len(contents(mine)) >= 6
        assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in theirs.iterdir())


@pytest.mark.slow
def test_stopped_twice_and_resumed_by_other_numbers_of_ranks(tmp_path: Path) -> None:
    """Two ranks of which one is killed, then four of which one gets a signal, then this process."""
    data = store_data(tmp_path)
    words = ["gpunet", "train", "mlp", "--data", data, "--hidden", "16", "--epochs", "30", "--batch-size", "16", "-q"]
    process = start(2, *words, "--runs-dir", tmp_path / "runs")
    saved = first_of(tmp_path, "runs/*/last.safetensors", newer_than=0.0)
    ranks = descendants(process.pid)
    os.kill(max(ranks), signal.SIGKILL)
    killed = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - killed < 10
    assert process.returncode != 0 and "Killed" in output
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    run_dir = saved.parent
    assert epochs_of(run_dir) < 30, "it was killed on the way"  # perhaps before the first epoch's line was written

    changed = saved.stat().st_mtime
    process = start(4, "gpunet", "train", "--resume", run_dir, "-q")
    first_of(tmp_path, "runs/*/last.safetensors", newer_than=changed)
    os.kill(max(descendants(process.pid)), signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors == f"gpunet: interrupted; continue with: gpunet train --resume {run_dir}\n"
    assert epochs_of(run_dir) < 30

    config = load(run_dir / "config.toml")
    assert config.training.shards == 8
    fit(config, run_dir=run_dir, device="cpu", resume=True)
    whole = tmp_path / "whole"
    whole.mkdir()
    fit(config, run_dir=whole, device="cpu")
    assert contents(run_dir) == contents(whole)


def first_of(folder: Path, pattern: str, newer_than: float) -> Path:
    """The file of this `pattern`, once there is one."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > newer_than:
                    return path
        time.sleep(0.005)
    raise AssertionError(f"no new {pattern} within a minute")


def epochs_of(run_dir: Path) -> int:
    return len((run_dir / "metrics.jsonl").read_text().splitlines())


def descendants(pid: int) -> list[int]:
    """The Python processes below mpiexec."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        name = Path(f"/proc/{child}/comm").read_text()
        found += [int(child)] if "python" in name else descendants(int(child))
    return found


@pytest.mark.slow
def test_one_message_for_an_error(tmp_path: Path) -> None:
    """Ranks that were given other settings, and one that has no data: which the others wait for in vain."""
    data = store_data(tmp_path)
    mlp = ["gpunet", "train", "mlp", "--runs-dir", tmp_path / "runs", "--batch-size", "16", "-q", "--data"]
    other = [":", "-n", "1", sys.executable, "-m"]
    process = start(1, *mlp, data, "--lr", "0.01", *other, *mlp, data, "--lr", "0.02")
    _, errors = process.communicate(timeout=60)
    assert errors == (
        "gpunet: error: rank 1 has another lr than rank 0 (0.01 and 0.02): give all ranks the same gpunet, data and "
        "settings\n"
    )
    assert process.returncode == 2
    process = start(1, *mlp, data, *other, *mlp, tmp_path / "missing.npz")
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert errors.count("gpunet: error") == 1 and "missing.npz" in errors
    assert process.returncode == 3 and time.monotonic() - began < 20
    assert not list((tmp_path / "runs").glob("*/*.safetensors"))
