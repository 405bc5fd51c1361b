"""Two runs side by side: what counts as slower, and what is said besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import compare, results
from gpunet.errors import DataError
from tests.bench import samples


def change(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> compare.Change:
    (found,) = compare.changes(samples.report("bench", before), samples.report("bench", after))
    return found


def relu(ms: float, *peers: tuple[str, float]) -> list[dict[str, Any]]:
    others = [samples.result("relu", name, ms * ratio, ratio=ratio) for name, ratio in peers]
    return [samples.result("relu", "numba", ms), *others]


def test_against_the_same_peer_the_ratio_counts() -> None:
    busy = change(relu(1.0, ("numpy", 2.0)), relu(1.5, ("numpy", 1.9)))  # the whole machine got slower
    assert busy.time == 1.5 and busy.slowdown == 2.0 / 1.9 and not busy.slower
    worse = change(relu(1.0, ("numpy", 2.0)), relu(1.0, ("numpy", 1.6)))
    assert worse.time == 1.0 and worse.slowdown == 1.25 and worse.slower


def test_without_a_common_peer_the_time_counts() -> None:
    alone = change(relu(1.0), relu(1.25))
    assert alone.slowdown == 1.25 and alone.slower
    other = change(relu(1.0, ("numpy", 4.0)), relu(1.0, ("numpy", 4.0), ("pytorch", 1.5)))
    assert other.slowdown == 1.0 and not other.slower
    assert "numpy, then pytorch" in compare.table([other])


def test_only_more_than_a_tenth_is_flagged() -> None:
    assert not change(relu(1.0), relu(1.1)).slower and change(relu(1.0), relu(1.11)).slower
    table = compare.table([change(relu(1.0), relu(1.1)), change(relu(1.0), relu(1.11))]).splitlines()
    assert [line.count("x slower") for line in table] == [0, 0, 0, 1] and "1.11x slower" in table[3]


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    old = samples.write(tmp_path, samples.report("bench", samples.ops()))
    slow = [{**one, "ms": one["ms"] * 1.2} if one["op"] == "relu" else one for one in samples.ops()]
    slow[-2]["ratio"] = 1.0
    elsewhere = {**samples.MACHINE, "cpu": "Other CPU"}
    found = samples.report("bench", slow[5:], "2026-01-03T00:00:00Z", machine=elsewhere, versions={"numpy": "3"})
    compare.main([str(samples.write(tmp_path, found)), "--against", str(old)])
    out = capsys.readouterr().out
    assert "| relu   | 8              | forward   |" in out and "1.25x slower" in out
    assert "old: bench-2026-01-02.json, 2026-01-02; new: 2026-01-03; 2 ops in both" in out
    assert "the machines differ" in out and "versions differ: numpy\n" in out
    assert "not in the new run: conv2d conv1-1x32@28 forward\n" in out
    assert out.endswith("more than 10% slower: relu 8 forward\n")


def test_the_last_committed_result_is_run_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    files = [
        samples.write(tmp_path, samples.report("bench", relu(ms), date))
        for ms, date in ((9.0, "2026-01-01T00:00:00Z"), (1.0, "2026-02-01T00:00:00Z"))
    ]
    asked: list[Any] = []

    def run(*given: Any) -> Any:
        asked.append(given)
        return samples.report("bench", relu(2.0))

    monkeypatch.setattr(results, "committed", lambda: files)
    monkeypatch.setattr(compare.suite, "run", run)
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    compare.main([])
    assert asked == [(4, 2, "")]  # the old file's batch and threads
    assert "2.00x slower" in capsys.readouterr().out
    assert len(list((tmp_path / ".benchmarks").glob("bench-*.json"))) == 1


def test_nothing_to_compare_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "committed", list)
    with pytest.raises(DataError, match=r"no committed result of the op benchmarks in .*: run make bench and"):
        compare.main([])
    ours = samples.write(tmp_path, samples.report("bench", relu(1.0)))
    race = samples.write(tmp_path, samples.report("race", []))
    with pytest.raises(DataError, match=r"race-2026-01-02\.json holds results of kind race, expected bench"):
        compare.main([str(ours), "--against", str(race)])
    other = samples.report("bench", [{**one, "batch": 8} for one in relu(1.0)], "2026-03-01T00:00:00Z")
    with pytest.raises(DataError, match="no op in common"):
        compare.main([str(ours), "--against", str(samples.write(tmp_path, other))])
