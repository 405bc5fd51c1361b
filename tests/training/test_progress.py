"""What a training says on the way: a line for each epoch, and that it compiles."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpunet.backend import CPU
from gpunet.training import Progress
from gpunet.training.progress import is_watched
from tests.training.problems import make_trainer


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    make_trainer(epochs=2, callbacks=(Progress(Console(file=out), title="cnn"),)).fit()
    lines = [line for line in out.getvalue().splitlines() if line.startswith("cnn epoch")]
    assert [line.split()[2] for line in lines] == ["1/2", "2/2"]
    for word in ("train loss", "validation loss", "accuracy", "lr", "images/s", "min left"):
        assert word in lines[0]


def test_bar_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, color_system=None)
    make_trainer(epochs=1, callbacks=(Progress(console),)).fit()
    assert "epoch 1/1" in out.getvalue() and "images/s" in out.getvalue()


def test_compilation_is_announced() -> None:
    from gpunet.ops._numba import numba

    @numba.njit
    def double(x: float) -> float:
        return x + x

    seen: list[str] = []
    with CPU.watch_compilation(seen.append):
        assert double(2.5) == 5.0
        assert double(1.5) == 3.0
    double(np.float32(1))
    assert len(seen) == 1 and seen[0].endswith(".double")

    out = io.StringIO()
    progress = Progress(Console(file=out))
    trainer = make_trainer(epochs=1)
    progress.on_train_start(trainer)
    for number in range(10):
        progress._on_compile(f"kernel{number}")
    progress.on_epoch_start(trainer, 1)
    progress.on_step(trainer, 1, 0.5)
    progress.on_train_end(trainer)
    text = out.getvalue()
    assert text.count("preparing kernels: compiled once") == 1
    assert "preparing kernel 10: kernel9" in text and "prepared 10 kernels, first step after" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, **options: Any) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    make_trainer(epochs=1, **options).fit()
    return stderr.getvalue()


def test_a_trainer_shows_progress_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert "epoch 1/1" in shown(monkeypatch, io.StringIO(), progress=True)
    assert "epoch 1/1" in shown(monkeypatch, Terminal())
    assert shown(monkeypatch, Terminal(), progress=False) == ""
    own = io.StringIO()
    assert shown(monkeypatch, Terminal(), callbacks=(Progress(Console(file=own)),)) == ""
    assert "epoch 1/1" in own.getvalue()


@pytest.mark.parametrize(("shell", "seen"), [("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)])
def test_a_notebook_sees_progress(shell: str, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", sys)  # that it was imported
    monkeypatch.setattr("builtins.get_ipython", lambda: type(shell, (), {})(), raising=False)
    assert is_watched() is seen


def test_history_is_a_sequence_of_records() -> None:
    history = make_trainer(epochs=3).fit()
    assert isinstance(history, Sequence) and len(history) == 3 and list(history) == history.records
    assert history[-1]["epoch"] == 3 and [record["epoch"] for record in history[:2]] == [1, 2]
    assert "History of 3 epochs, the last one {'epoch': 3," in repr(history)
