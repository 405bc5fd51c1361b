"""A few cases of each campaign, so that the campaigns themselves stay right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.epochs import watch_epochs
from tests.campaigns.faults import build
from tests.campaigns.kills import kill_runs, run
from tests.campaigns.runs import data_set, differences, run_folder, words

ROOT = Path(__file__).parents[2]


def test_differences_between_runs_are_found(tmp_path: Path) -> None:
    run(words("mlp", data_set(tmp_path), tmp_path / "runs", epochs=1))
    first, second = run_folder(tmp_path / "runs"), tmp_path / "copy"
    assert first is not None
    shutil.copytree(first, second)
    assert differences(first, second) == []
    (second / "summary.txt").write_text("other")
    (second / "result.json").write_text((second / "result.json").read_text().replace('"epochs": 1', '"epochs": 2'))
    shutil.copy(first / "split.npz", second / ".left.0123456789ab.tmp.npz")
    assert differences(first, second) == [
        ".left.0123456789ab.tmp.npz is only in one of them",
        "result.json differs",
        "summary.txt differs",
    ]


def test_kills() -> None:
    runs, found = kill_runs("mlp", 1, epochs=3)
    assert runs and not found


@pytest.mark.parametrize(("fault", "every"), [("kill", 63), ("ENOSPC", 89)])
def test_faults(fault: str, every: int, tmp_path: Path) -> None:
    library = build(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler, on Linux")
    command = [sys.executable, "-m", "tests.campaigns.faults", "--fault", fault, "--every", str(every), "--first", "30"]
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"mlp, {fault}: [1-9]\d* of \d+ file operations, 0 findings", done.stdout)


def test_epochs_leave_no_handles_and_threads() -> None:
    seen = watch_epochs("mlp", 40)
    assert len(seen) == 40 and all(last <= early for last, early in zip(seen[-1][1:], seen[10][1:], strict=True))
    assert seen[-1][0] - seen[10][0] < 8 << 20
