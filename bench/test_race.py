"""The race is fair: all contestants compute the same, and ratios are taken within a round."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import race, racers
from gpunet import nn
from gpunet.backend import CPU
from tests.support import assert_close, torch_or_skip


@pytest.mark.parametrize("case", ["cnn-infer", "mlp-train"])
def test_the_peers_model_is_ours(case: str, rng: np.random.Generator) -> None:
    torch = torch_or_skip()
    ours = racers.model_of(case).initialize(seed=1, device=CPU)
    theirs = racers.torch_model(ours).eval()
    layouts = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # from ours to PyTorch's, by rank
    parameters = theirs.parameters()
    with torch.no_grad():
        for _, layer in ours.named_layers():
            for parameter in [value for value in vars(layer).values() if isinstance(value, nn.Parameter)]:
                values = np.ascontiguousarray(parameter.value.transpose(layouts[parameter.value.ndim]))
                other = next(parameters)
                assert other.shape == values.shape
                other.copy_(torch.from_numpy(values))
    assert next(parameters, None) is None
    x = rng.random((4, 28, 28, 1), dtype=np.float32)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    # five convolutions of up to 2304 terms each
    assert_close(ours(x), expected, terms=2304, scale=float(np.abs(expected).max()))


def test_a_contestant_takes_turns() -> None:
    racer = race.Racer("gpunet", "cnn-infer", 1, threads=1)
    try:
        assert racer.ready()
        assert racer.race(0.05) > 1 and racer.race(0.05) > 1
    finally:
        racer.stop()


def replace_racers(monkeypatch: pytest.MonkeyPatch, rates: dict[str, list[float]]) -> None:
    """Contestants with these rates, round by round; one without any does not take part."""

    class Fake:
        def __init__(self, name: str, *unused: Any) -> None:
            self.name = name
            self.left = iter(rates[name])

        def ready(self) -> bool:
            return bool(rates[self.name])

        def race(self, seconds: float) -> float:
            return next(self.left)

        def stop(self) -> str:
            return "Traceback\nImportError: no peer"

    monkeypatch.setattr(race, "Racer", Fake)
    monkeypatch.setattr(race, "contestants", lambda case: list(rates))


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    rates = {"gpunet": [100.0, 50.0, 300.0], "slow": [50.0, 50.0, 100.0], "fast": [200.0, 200.0, 100.0], "absent": []}
    replace_racers(monkeypatch, rates)
    monkeypatch.setattr(race, "BATCHES", {"mlp-train": (7,)})
    monkeypatch.setattr(
        sys, "argv", ["race", "--cases", "mlp-train", "--rounds", "3", "--json", str(tmp_path / "r.json")]
    )
    race.main()
    written = json.loads((tmp_path / "r.json").read_text())
    assert written == [
        {"case": "mlp-train", "batch": 7, "peer": "fast", "ratio": 0.5, "low": 0.25, "high": 3.0, "ours_per_s": 100.0,
         "peer_per_s": 200.0, "rounds": 3},
        {"case": "mlp-train", "batch": 7, "peer": "slow", "ratio": 2.0, "low": 1.0, "high": 3.0, "ours_per_s": 100.0,
         "peer_per_s": 50.0, "rounds": 3},
    ]  # fmt: skip
    captured = capsys.readouterr()
    assert "| mlp-train | 7 | fast | 0.50 | 0.25 to 3.00 | 100 | 200 | 3 |" in captured.out
    assert "absent does not take part in mlp-train: ImportError: no peer" in captured.err


def raced(rounds: int = 15, until: float = math.inf) -> dict[str, int]:
    found = race.compare("mlp-train", 7, rounds=rounds, seconds=0.0, threads=1, until=until)
    return {result.peer: result.rounds for result in found}


def test_a_configuration_that_its_library_beats_retires(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [100.0, 200.0] * 8
    rates = {
        "gpunet": [100.0] * 15,
        "pytorch eager": wide,
        "pytorch compile": [rate / 1.1 for rate in wide],  # always slower
        "pytorch close": [rate / 1.04 for rate in wide],  # always slower, but by little
        "pytorch noisy": [rate / 1.5 for rate in wide[:3]] + [1000.0] * 12,  # slower in three rounds of four
        "scikit-learn": [rate / 9 for rate in wide],  # the only one of its library
    }
    replace_racers(monkeypatch, rates)
    assert raced() == {name: 4 if name == "pytorch compile" else 15 for name in rates if name != "gpunet"}


def test_a_race_ends_when_its_ratios_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_racers(monkeypatch, {"gpunet": [100.0] * 15, "a": [100.0, 99.0, 98.0, 97.0, 99.0, 96.0] + [0.0] * 9})
    assert raced() == {"a": 6}
    # One round in nine may lie outside: of 9, the 2nd and the 8th bound the median with 1 - 2 * (1 + 9) / 512.
    replace_racers(monkeypatch, {"gpunet": [100.0] * 15, "a": [50.0] + [100.0] * 14})
    assert raced() == {"a": 9}


def test_a_race_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_racers(monkeypatch, {"gpunet": [100.0] * 15, "a": [100.0, 200.0] * 8})
    assert raced(until=0.0) == {"a": 6}


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in range(1, 20):
        low, high = race.median_interval(range(n))
        if n < race.FEWEST_ROUNDS:
            assert (low, high) == (-math.inf, math.inf)
        else:
            rank = int(stats.binom.ppf(0.025, n, 0.5)) - 1
            rank += stats.binom.cdf(rank + 1, n, 0.5) <= 0.025
            assert (low, high) == (rank, n - 1 - rank)
