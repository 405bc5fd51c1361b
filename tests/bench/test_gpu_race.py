"""The race on a GPU, as far as a CPU shows it."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest

from bench import gpu_race
from bench.gpu_race import ours, race, theirs
from gpunet.backend import CPU


@pytest.mark.parametrize("case", ["mlp-train", "cnn-infer"])
def test_turns_are_whole_steps(case: str) -> None:
    assert ours(CPU, case, 8, "float32", steps=2)() == 2


@pytest.mark.parametrize("case", ["mlp-train", "cnn-train", "cnn-infer"])
def test_pytorch_steps(case: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[peers]'")
    assert theirs(torch, "cpu", case, 4, "eager", "float32", steps=2)() == 2


def test_times_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of two steps that take 20 us each, and of one of 50 us."""
    now = 0.0

    def turn(steps: int, seconds: float) -> int:
        nonlocal now
        now += seconds
        return steps

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found = race({"gpunet": lambda: turn(2, 40e-6), "peer": lambda: turn(1, 50e-6)}, rounds=3)
    assert found == {"gpunet": "20.0 us", "peer": "50.0 us, 2.50 (2.50 to 2.50) times gpunet's"}


def test_without_pytorch_gpunet_is_timed_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["gpu_race", "--device", "cpu", "--rehearse"])
    gpu_race.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("PyTorch") == "not installed"
    assert set(found) == {"mlp-train, batch 8, float32", "mlp-train, batch 8, tf32"}
    assert all(re.fullmatch(r"[\d.]+ us", times["gpunet"]) and len(times) == 1 for times in found.values())
