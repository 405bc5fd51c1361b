"""Workers that are killed: their trials are resumed, and given up only until the next call."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpunet.errors import OutputError
from gpunet.sweep import Sweep
from gpunet.sweep import run as sweep_run
from gpunet.sweep.pool import ProcessExecutor
from gpunet.sweep.run import SweepResult, run_sweep
from tests.sweep.conftest import Declare
from tests.sweep.test_sweep import lines

EPOCHS = 8
REASON = "the worker process was killed by SIGKILL (out of memory?)"

# A worker that notes its epochs, and kills itself when one from the second on is over, unless that has happened often
# enough.
SCRIPT = """
import os, pathlib, signal, sys
from gpunet.sweep import work, worker
marks = pathlib.Path({marks!r})
def dying(record):
    with open({epochs!r}, "a") as file:
        print(record["epoch"], file=file)
    if record["epoch"] >= 2 and len(list(marks.iterdir())) < {kills}:
        (marks / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
work.after_epoch = dying
worker.main()
"""


class Sweeps:
    """Runs a sweep whose first workers are killed, and notes the epochs that its workers report."""

    def __init__(self, declare: Declare, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        sweep = declare("dropout = [0.1]", "evaluate_test = true")
        self.sweep = Sweep(**{**vars(sweep), "settings": {**sweep.settings, "epochs": EPOCHS}})
        self.patch = patch
        self.noted = folder / "epochs"
        self.noted.touch()

    def epochs(self) -> list[int]:
        """The epochs that the workers have run since the last call."""
        found = [int(line) for line in self.noted.read_text().splitlines()]
        self.noted.write_text("")
        return found

    def run(self, name: str, kills: int = 0, **options: Any) -> SweepResult:
        marks = self.folder / "marks" / str(len(list(self.folder.glob("marks/*"))))
        marks.mkdir(parents=True)
        start = subprocess.Popen

        def started(command: list[str], **more: Any) -> Any:
            script = SCRIPT.format(marks=str(marks), epochs=str(self.noted), kills=kills)
            return start([command[0], "-c", script], **more)

        with self.patch.context() as patch:
            patch.setattr("gpunet.sweep.pool.subprocess.Popen", started)
            result = run_sweep(self.sweep, self.folder / name, device="cpu", progress=False, **options)
        assert len(list(marks.iterdir())) == kills, "as many workers were killed"
        return result


@pytest.fixture
def sweeps(declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps(declare, tmp_path, monkeypatch)


def test_killed_trials_are_resumed(sweeps: Sweeps, caplog: pytest.LogCaptureFixture) -> None:
    whole = sweeps.run("whole")
    assert sweeps.epochs() == [*range(1, EPOCHS + 1)] * 2, "two seeds"
    cut = sweeps.run("cut", kills=4)  # three times in the first trial, then once in the second one
    attempts = [f"trial {trial}: {REASON}; attempt {number} of 3 follows" for trial, number in ((1, 2), (1, 3), (2, 2))]
    assert caplog.messages == [*attempts, "1 of 2 trials were killed; the same command resumes them"]
    first, second = lines(cut.folder)
    assert (first["status"], first["error"]) == ("failed", f"killed 3 times: {REASON}")
    assert second == lines(whole.folder)[1]
    # each attempt goes on from a checkpoint: an epoch is repeated only if the kill came before it was saved
    epochs = sweeps.epochs()
    own = epochs[epochs.index(1, 1) :]
    assert own.count(1) == 1 and set(own) == set(range(1, EPOCHS + 1)) and len(own) <= EPOCHS + 1
    assert cut.test is None and not (cut.folder / "test.json").exists(), "the sweep is not over"
    (trial,) = (path for path in cut.folder.glob("trials/*") if not (path / "trial.json").exists())
    assert (trial / "last.safetensors").exists() and not list(trial.glob("**/.*.tmp*"))

    resumed = sweeps.run("cut")
    epochs = sweeps.epochs()
    assert epochs[-1] == EPOCHS and epochs[0] >= 2, "from its checkpoint"
    assert lines(cut.folder) == lines(whole.folder) and resumed.test == whole.test
    assert not list(cut.folder.glob("trials/*/*.safetensors"))


def test_a_trial_that_cannot_be_resumed_is_trained_again_and_that_is_said(
    sweeps: Sweeps, caplog: pytest.LogCaptureFixture
) -> None:
    whole = sweeps.run("whole")
    sweeps.run("cut", kills=3)
    (trial,) = (path for path in (sweeps.folder / "cut").glob("trials/*") if not (path / "trial.json").exists())
    for path in trial.glob("[lp]*.safetensors"):  # the last one, and the one before if there is one
        path.write_bytes(path.read_bytes()[:-9])
    caplog.clear()
    sweeps.run("cut")
    assert lines(sweeps.folder / "cut") == lines(whole.folder)
    (message,) = caplog.messages
    assert message.startswith(f"trial 1: {trial}/last.safetensors cannot be read as a checkpoint")
    assert message.endswith("the trial is trained again from the start")


def test_a_worker_that_is_killed_while_it_waits(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    take, submit, pools, killed = sweep_run._Run._take, ProcessExecutor.submit, [], []

    def noted(pool: Any, *args: Any) -> Any:
        pools.append(pool)
        return submit(pool, *args)

    def taken(*args: Any) -> None:
        take(*args)
        if not killed:
            (worker,) = pools[0].workers
            killed.append(worker.process)
            worker.process.kill()
            worker.process.wait()

    monkeypatch.setattr(ProcessExecutor, "submit", noted)
    monkeypatch.setattr(sweep_run._Run, "_take", taken)
    result = sweeps.run("out")
    assert len(killed) == 1 and [row.outcome.status for row in result.rows] == ["ok", "ok"]


def test_workers_that_cannot_start(sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sweep.test_killed_workers.SCRIPT", "raise SystemExit(3)  # {marks} {epochs} {kills}")
    with pytest.raises(OutputError, match=r"the worker process ended with code 3; see .*worker-1\.log"):
        sweeps.run("out")
