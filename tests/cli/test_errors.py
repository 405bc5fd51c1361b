"""Errors out of the pipeline: the exit code of each, one line, the traceback only with --debug."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gpunet.errors import CheckpointError, ConfigError, DataError, DivergedError, OutputError
from tests.cli.conftest import Command, assert_refused
from tests.cli.fake_run import FakeRun


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("kernel_sizes does not fit"), 2, "kernel_sizes does not fit"),
        (CheckpointError("damaged"), 2, "damaged"),
        (DataError("no images"), 3, "no images"),
        (DivergedError("the loss became NaN in epoch 2"), 5, "the loss became NaN in epoch 2"),
        (OutputError("cannot write x: disk full"), 1, "cannot write x: disk full"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/log"), 1,
         "cannot read or write runs/x/log: No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "log"), 1, "cannot read or write log: Read-only file system"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "log"), 1, "cannot read or write log: Permission denied"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "cannot read or write runs/cnn-"),
        (MemoryError(), 1, "out of memory; a smaller --batch-size or model may fit"),
        (RuntimeError("broken\nin two lines"), 1,
         "unexpected RuntimeError: broken in two lines; run again with --debug for the traceback"),
        (RecursionError(), 1, "unexpected RecursionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_error_of_the_pipeline(
    gpunet_command: Command, fake_run: FakeRun, error: BaseException, code: int, message: str
) -> None:
    fake_run.error = error
    assert_refused(gpunet_command("train", "cnn", "-q"), code, message)


def test_debug_shows_the_traceback(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error = RuntimeError("broken")
    outcome = gpunet_command("train", "cnn", "-q", "--debug")
    assert outcome.code == 1
    assert outcome.err.startswith("Traceback (most recent call last):")
    assert outcome.err.splitlines()[-1] == "gpunet: error: unexpected RuntimeError: broken"


def test_debug_keeps_the_exit_code(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error = DivergedError("NaN")
    outcome = gpunet_command("--debug", "train", "cnn", "-q")
    assert outcome.code == 5
    assert "Traceback" in outcome.err
    assert gpunet_command("train", "cnn", "--batch-size", "0", "--debug").code == 2


def test_interrupt_says_how_to_go_on(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error = KeyboardInterrupt()
    outcome = gpunet_command("train", "cnn", "-q")
    (run_dir,) = Path("runs").iterdir()
    assert outcome.code == 130
    assert outcome.err == f"gpunet: interrupted; continue with: gpunet train --resume {run_dir}\n"


def test_interrupt_before_anything_was_written(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error, fake_run.writes_files = KeyboardInterrupt(), False
    outcome = gpunet_command("train", "cnn", "-q")
    assert (outcome.code, outcome.err) == (130, "gpunet: interrupted\n")
    assert list(Path("runs").iterdir()) == [], "an empty run folder was left behind"


def test_broken_pipe_is_quiet(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    outcome = gpunet_command("train", "cnn", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "")


def test_failed_run_keeps_what_was_written(gpunet_command: Command, fake_run: FakeRun) -> None:
    fake_run.error = DivergedError("NaN")
    gpunet_command("train", "cnn", "-q")
    (run_dir,) = Path("runs").iterdir()
    assert (run_dir / "config.toml").exists()
