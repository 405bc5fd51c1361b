"""The programs that measure in processes of their own: the op benchmarks, start-up, memory, and what the race saves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import memory, race, results, start_up, suite
from gpunet.errors import DataError


@pytest.mark.slow
def test_the_suite(tmp_path: Path, capsys: Any) -> None:
    suite.main(["--batch", "2", "--threads", "1", "--select", "test_linear and 64x10 and dx and not pytorch",
                "--results", str(tmp_path)])  # fmt: skip
    (path,) = tmp_path.glob("bench-*.json")
    found = results.load(path)
    assert found["machine"]["threads"] == 1 and found["roofline"]["cpu"]["gflop_per_s"] > 0
    by_name = {one["implementation"]: one for one in found["results"]}
    assert set(by_name) >= {"reference", "numpy", "numba"}
    for name, one in by_name.items():
        assert (one["op"], one["shape"], one["batch"], one["device"]) == ("linear", "64x10", 2, "cpu")
        assert one["ms"] > 0 and one["rounds"] >= 5 and one["roofline_share"] > 0
        assert ("ratio" in one) == (name not in ("numba", "reference"))
    shown = path.with_suffix(".md").read_text()
    assert "| linear | 64x10 | dx        |" in shown
    assert "| linear | 64x10 | dx        |" in capsys.readouterr().out


def test_a_suite_without_benchmarks_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ended with exit code 5; nothing was written"):
        suite.main(["--select", "no_such_benchmark", "--results", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_memory_of_training(tmp_path: Path, capsys: Any) -> None:
    memory.main(["--case", "mlp-train", "--batch", "4", "--steps", "9", "--threads", "1", "--contestants", "gpunet",
                 "nobody", "--json", str(tmp_path / "m.json"), "--save", str(tmp_path)])  # fmt: skip
    (one,) = json.loads((tmp_path / "m.json").read_text())
    assert (one["case"], one["batch"], one["contestant"]) == ("mlp-train", 4, "gpunet")
    assert one["steps"] == 16  # two epochs of eight
    assert 20 < one["before_mb"] < one["peak_mb"] < 5000
    (path,) = tmp_path.glob("memory-*.json")
    assert results.load(path)["results"] == [one]
    captured = capsys.readouterr()
    assert f"| mlp-train | 4     | gpunet     | {one['peak_mb']:>7,.0f} |" in captured.out
    assert "nobody does not take part: KeyError: 'nobody'" in captured.err


def test_the_first_step_of_a_process(tmp_path: Path) -> None:
    assert start_up.first_step("scikit-learn", "mlp-train", 4, tmp_path, 1) > 0
    with pytest.raises(ChildProcessError, match="KeyError: 'nobody'"):
        start_up.first_step("nobody", "mlp-train", 4, tmp_path, 1)


def test_cold_and_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    caches: list[Path] = []

    def first_step(contestant: str, case: str, batch: int, cache: Path, threads: int) -> float:
        if contestant == "pytorch compile NHWC":
            raise ChildProcessError("no compiler")
        assert (cache.exists() and not any(cache.iterdir())) or caches.count(cache)
        (cache / "kernel").touch()
        caches.append(cache)
        return float(len(caches))

    monkeypatch.setattr(start_up, "first_step", first_step)
    start_up.main(["--cases", "mlp-train", "--rounds", "3", "--cold-rounds", "2", "--json", str(tmp_path / "s.json")])
    cold, warm, eager = json.loads((tmp_path / "s.json").read_text())
    # The first run does not count; two cold ones, each in a fresh cache, then three warm ones in that of the first.
    assert len(set(caches[:3])) == 3 and set(caches[3:6]) == {caches[0]}
    assert cold == {"case": "mlp-train", "batch": 128, "contestant": "gpunet", "cache": "cold", "seconds": 2.5,
                    "low": 2.0, "high": 3.0, "runs": 2}  # fmt: skip
    assert (warm["cache"], warm["seconds"], warm["low"], warm["high"], warm["runs"]) == ("warm", 5.0, 4.0, 6.0, 3)
    assert (eager["contestant"], eager["cache"], eager["runs"]) == ("pytorch eager NHWC", "", 3)
    captured = capsys.readouterr()
    assert (
        "| mlp-train | 128   | gpunet             | cold         |    2.50 |      2.00 to 3.00 |    2 |" in captured.out
    )
    assert "pytorch compile NHWC does not take part in mlp-train: no compiler" in captured.err


def test_the_race_saves_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [race.Result("mlp-train", 7, "slow", 2.0, 1.0, 3.0, 100.0, 50.0, 6)]
    monkeypatch.setattr(race, "compare", lambda *args, **options: found)
    monkeypatch.setattr(race, "BATCHES", {"mlp-train": (7,)})
    given = ["race", "--cases", "mlp-train", "--save", str(tmp_path), "--json", str(tmp_path / "bare.json")]
    monkeypatch.setattr(sys, "argv", given)
    race.main()
    (path,) = tmp_path.glob("race-*.json")
    expected = {"case": "mlp-train", "batch": 7, "peer": "slow", "ratio": 2.0, "low": 1.0, "high": 3.0,
                "ours_per_s": 100.0, "peer_per_s": 50.0, "rounds": 6}  # fmt: skip
    assert results.load(path)["results"] == [expected] == json.loads((tmp_path / "bare.json").read_text())
    assert "| mlp-train | 7 | slow | 2.00 | 1.00 to 3.00 | 100 | 50 | 6 |" in path.with_suffix(".md").read_text()
