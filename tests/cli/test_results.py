"""``gpunet evaluate`` and ``gpunet predict``: what they ask of the pipeline and what they print."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from scipy.stats import binomtest
from sklearn.metrics import classification_report

from gpunet.cli.console import _handler
from tests.cli.conftest import Command
from tests.cli.fake_run import CLASS_NAMES, FakeRun


def test_evaluate(gpunet_command: Command, fake_run: FakeRun) -> None:
    outcome = gpunet_command("evaluate", ".")
    interval = binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[:2] == [
        "test loss 0.5000",
        f"test accuracy 75.00 % (95 % interval {100 * interval.low:.2f}-{100 * interval.high:.2f})",
    ]
    table = classification_report([0, 1, 1, 2], [0, 0, 1, 2], target_names=CLASS_NAMES)
    assert [line.split() for line in lines[2:] if line] == [line.split() for line in table.splitlines() if line]
    call = {"path": Path(), "data": None, "split": "test", "device": None, "figures": False, "tta": False}
    assert fake_run.calls == [("evaluate", call)]


def test_evaluate_options(gpunet_command: Command, fake_run: FakeRun) -> None:
    words = ["evaluate", ".", "--data", "folder", "--split", "validation", "--device", "cpu", "--figures"]
    assert gpunet_command(*words).out.startswith("validation loss")
    call = {"path": Path(), "data": "folder", "split": "validation", "device": "cpu", "figures": True, "tta": False}
    assert fake_run.calls == [("evaluate", call)]


def test_evaluate_json(gpunet_command: Command, fake_run: FakeRun) -> None:
    outcome = gpunet_command("evaluate", ".", "--json", "--split", "train")
    (line,) = outcome.out.splitlines()
    result = json.loads(line)
    assert result["split"] == "train"
    assert (result["accuracy"], result["loss"], result["correct"], result["total"]) == (0.75, 0.5, 3, 4)
    assert result["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert result["class_names"] == list(CLASS_NAMES)
    interval = binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert result["interval"] == pytest.approx([interval.low, interval.high])


def test_predict(gpunet_command: Command, fake_run: FakeRun) -> None:
    for name in ("a.png", "b.png"):
        Path(name).touch()
    outcome = gpunet_command("predict", "--run", ".", "a.png", "b.png", "--top", "2")
    assert outcome.code == 0
    block = ["  Pullover     62.50 %", "  T-shirt/top  25.00 %"]
    assert outcome.out.splitlines() == ["a.png", *block, "", "b.png", *block]
    call = {"path": Path(), "images": [Path("a.png"), Path("b.png")], "device": None, "invert": "auto"}
    assert fake_run.calls == [("predict", call)]


def test_predict_shows_at_most_all_classes(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("a.png").touch()
    outcome = gpunet_command("predict", "--run", ".", "a.png", "--top", "50", "--invert", "always")
    assert len(outcome.out.splitlines()) == 1 + len(CLASS_NAMES)
    assert fake_run.calls[0][1]["invert"] == "always"


def test_predict_takes_the_newest_run(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("a.png").touch()
    for seconds, name in enumerate(("newer-not", "b-newest", "a-older")):
        model = Path("runs") / name / "checkpoint.safetensors"
        model.parent.mkdir(parents=True)
        model.touch()
        os.utime(model, (100, (1, 9, 5)[seconds]))
    (Path("runs") / "unfinished").mkdir()
    outcome = gpunet_command("predict", "a.png")
    assert outcome.code == 0 and "model: runs/b-newest" in outcome.err
    assert fake_run.calls[0][1]["path"] == Path("runs/b-newest")


def test_predict_json(gpunet_command: Command, fake_run: FakeRun) -> None:
    Path("a.png").touch()
    (line,) = gpunet_command("predict", "a.png", "--run", ".", "--json", "--top", "1").out.splitlines()
    assert json.loads(line) == {
        "predictions": [
            {
                "path": "a.png",
                "label": 2,
                "class": "Pullover",
                "top": [{"class": "Pullover", "probability": 0.625}],
            }
        ]
    }


EVIL = "\x1b]0;title\x07\x9b2J\r"
SHOWN = "\\x1b]0;title\\x07\\x9b2J\\r"


def test_predict_escapes_names(gpunet_command: Command, fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of classes come with the data and those of images from anywhere: neither may command the terminal."""
    monkeypatch.setattr("tests.cli.fake_run.CLASS_NAMES", (f"{EVIL}\nboot", "bag", "hat"))
    image = Path(f"{EVIL}\n.png")
    image.touch()
    outcome = gpunet_command("predict", "--run", ".", image, "--top", "3")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert lines[0] == f"{SHOWN}\\n.png"
    names = [line[2:].rpartition(" %")[0].rsplit(maxsplit=1)[0] for line in lines[1:]]
    assert sorted(names) == sorted([f"{SHOWN}\\nboot", "bag", "hat"])
    assert len({len(line) for line in lines[1:]}) == 1, "aligned"
    assert EVIL not in outcome.err


def test_everything_else_is_escaped(gpunet_command: Command, fake_run: FakeRun) -> None:
    assert SHOWN in gpunet_command("evaluate", EVIL).err
    Path(EVIL).mkdir()
    fake_run.error = RuntimeError(f"no {EVIL}!")
    outcome = gpunet_command("evaluate", EVIL, "--debug")
    assert f"RuntimeError: no {SHOWN}!" in outcome.err.splitlines(), "in the traceback"
    assert outcome.err.splitlines()[-1].startswith("gpunet: error: unexpected RuntimeError: no \\x1b]0;title")
    assert "\x1b" not in outcome.err + outcome.out


def test_the_log_is_escaped(gpunet_command: Command, fake_run: FakeRun) -> None:
    run_dir = Path("runs") / EVIL
    run_dir.mkdir(parents=True)
    (run_dir / "checkpoint.safetensors").touch()
    Path("a.png").touch()
    outcome = gpunet_command("predict", "a.png")
    assert f"model: runs/{SHOWN}" in outcome.err.splitlines()
    assert gpunet_command("train", "cnn", "--runs-dir", EVIL).out.startswith(f"run folder: {SHOWN}/cnn-")


def test_the_log_on_a_terminal_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    handler = _handler()
    assert type(handler).__name__ == "RichHandler"
    record = logging.LogRecord("gpunet", logging.WARNING, "", 0, "%s is skipped", (EVIL,), None)
    assert handler.format(record) == f"{SHOWN} is skipped"
