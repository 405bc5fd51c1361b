"""Fixtures of the command line's tests: the command run in this process, and the pipeline replaced."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpunet.experiments
import gpunet.sweep
from gpunet.cli.main import main
from tests.cli.fake_run import FakeRun


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def gpunet_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``gpunet_command("train", "cnn")`` in an empty folder, on the CPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_DEVICE", "cpu")

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """The pipeline, replaced."""
    fake = FakeRun()
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(gpunet.experiments, "run", fake, raising=False)
    return fake


def assert_refused(outcome: Outcome, code: int, message: str) -> None:
    """Assert that the command ended with one line of error, and nothing else."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("gpunet: error: "), outcome.err
    assert message in lines[0], outcome.err
    assert "Traceback" not in outcome.err
