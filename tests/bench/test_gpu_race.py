"""The race on a GPU, as far as a CPU shows it."""

from __future__ import annotations

import json
import sys
import time
import types
from typing import Any

import pytest

from bench import gpu_race
from bench.gpu_race import ours, summary, theirs, times
from gpunet.backend import CPU


@pytest.mark.parametrize("case", ["mlp-train", "cnn-infer"])
def test_turns_are_whole_steps(case: str) -> None:
    assert ours(CPU, case, 8, "float32", steps=2)() == 2


@pytest.mark.parametrize("case", ["mlp-train", "cnn-train", "cnn-infer"])
def test_pytorch_steps(case: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[peers]'")
    assert theirs(torch, "cpu", case, 4, "eager", "float32", steps=2)() == 2


def test_times_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of two steps that take 20 us each."""
    now = 0.0

    def turn() -> int:
        nonlocal now
        now += 40e-6
        return 2

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert times(turn, 2) == pytest.approx([20.0, 20.0])


def test_medians_and_ranges() -> None:
    found = summary({"a case": {"gpunet": [10.0, 30.0, 20.0], "PyTorch graph": [50.0, 49.0, 60.0]}})
    assert found == {"a case": {"gpunet": [20.0, 10.0, 30.0], "PyTorch graph": [50.0, 49.0, 60.0]}}


def raced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["gpu_race", "--device", "cpu", "--rehearse"])
    with pytest.raises(SystemExit) as ended:
        gpu_race.main()
    assert not ended.value.code
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_without_pytorch_gpunet_is_timed_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = raced(monkeypatch, capsys)
    assert found.pop("PyTorch") == "not installed"
    assert set(found) == {"mlp-train, batch 8, float32", "mlp-train, batch 8, tf32"}
    assert all(list(by_name) == ["gpunet"] and min(by_name["gpunet"]) > 0 for by_name in found.values())


def test_one_that_crashes_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = gpu_race.run
    monkeypatch.setattr(gpu_race, "pytorch", lambda device: types.SimpleNamespace(__version__="2.0"))
    monkeypatch.setattr(gpu_race, "PEERS", {"nobody": "eager"})
    case = {"mlp-train, batch 8, float32": [3.0, 1.0, 2.0]}
    monkeypatch.setattr(gpu_race, "run", lambda name, given: (case, "") if name == "gpunet" else started(name, given))
    found = raced(monkeypatch, capsys)
    assert "invalid choice: 'nobody'" in found.pop("nobody")
    assert found == {"PyTorch": "2.0", "mlp-train, batch 8, float32": {"gpunet": [2.0, 1.0, 3.0]}}
