"""The contest: wrong results are found, ratios are of pairs, and rates and rooflines are right by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import contest
from bench.contest import Contest, Problem
from bench.roofline import Roofline, measure, useful_flops
from gpunet.backend import CPU
from gpunet.devices import cuda_status
from gpunet.ops.geometry import Conv2dGeometry

X = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)


def problem(**changed: Any) -> Problem:
    """Doubling an array, in several ways."""
    makers = {
        "ours": lambda a: lambda: a.x + a.x,
        "expression": lambda xp, a: lambda: xp.multiply(a.x, 2),
        "reference": lambda a: lambda: np.array([[2 * value for value in row] for row in a.x]),
        "pytorch": lambda torch, a, variant: lambda: a.x * 2,
    }
    return Problem(
        op="double", shape="2", direction="forward", batch=2, arrays={"x": X}, bytes_moved=32, flops=4,
        **{**makers, **changed},
    )  # fmt: skip


@pytest.mark.parametrize("implementation", ["numpy", "numba", "reference"])
def test_a_right_result_passes(implementation: str) -> None:
    Contest().check(problem(), implementation)


@pytest.mark.parametrize(
    ("implementation", "maker"),
    [
        ("numba", {"ours": lambda a: lambda: a.x * np.float32(2.0001)}),
        ("numba", {"ours": lambda a: lambda: a.x * np.nan}),
        ("numpy", {"expression": lambda xp, a: lambda: a.x}),
        ("reference", {"reference": lambda a: lambda: a.x}),  # held to the NumPy expression
        ("mine", {"others": {"mine": lambda a: lambda: -2 * a.x}}),
    ],
)
def test_a_wrong_result_is_found(implementation: str, maker: Any) -> None:
    with pytest.raises(AssertionError):
        Contest().check(problem(**maker), implementation)


def test_a_longer_result_is_checked_as_far_as_the_oracle_goes() -> None:
    Contest().check(problem(oracle=lambda: 2.0 * X[:1]), "numba")
    with pytest.raises(AssertionError):
        Contest().check(problem(oracle=lambda: 3.0 * X[:1]), "numba")


def test_each_call_has_its_own_arrays() -> None:
    given = problem(ours=lambda a: lambda: np.add(a.x, a.x, out=a.x))
    Contest().check(given, "numba")
    assert X.tolist() == [[1, -2], [3, 4]]


def test_what_cannot_run_is_skipped_with_the_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"the reference would take more than 0\.1 s"):
        contest.prepare(problem(reference_seconds=0.11), "reference")
    if cuda_status().problem:
        with pytest.raises(pytest.skip.Exception, match="no GPU: CuPy"):
            contest.prepare(problem(), "rawkernel")


class Clock:
    """A machine whose every call takes the time that is asked for, times how slow it is at the moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slow, self.order = 0.0, 1.0, []
        monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def call(self, name: str, seconds: float) -> Any:
        def run() -> None:
            self.now += seconds * self.slow
            self.order.append(name)

        return run


def test_ratios_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours, theirs = clock.call("ours", 0.25), clock.call("theirs", 0.75)
    assert contest.paired_ratios(ours, theirs, pairs=4, burst=0.5, limit=100) == [3.0] * 4
    # One call each to find how many a burst holds: 2 of ours, one of theirs. Then one more before each burst.
    ours_first, theirs_first = ["ours"] * 3, ["theirs"] * 2
    assert clock.order == ["ours", "theirs", *(theirs_first + ours_first + ours_first + theirs_first) * 2]


def test_a_machine_that_changes_moves_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slowing = clock.call("ours", 1.0)

    def ours() -> None:
        slowing()
        if len(clock.order) in (6, 14):
            clock.slow *= 2  # between pairs, half as fast as before

    # Calls 1 and 2 find the counts; each pair then is four calls.
    ratios = contest.paired_ratios(ours, clock.call("theirs", 2.0), pairs=3, burst=0.1)
    assert ratios == [2.0] * 3 and clock.slow == 4


def test_slow_pairs_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    ours, theirs = clock.call("ours", 0.25), clock.call("theirs", 0.75)
    # A pair takes 2 + 1 calls of ours and 1 + 1 of theirs: 2.25 s.
    assert [len(contest.paired_ratios(ours, theirs, 7, 0.5, limit)) for limit in (1.0, 11.3, 99.0)] == [3, 5, 7]


def test_rates_by_hand() -> None:
    peak = Roofline(gflop_per_s=100.0, gbyte_per_s=10.0)
    found = contest.rates(0.02, 1_000_000_000, 20_000_000, peak)
    assert found == {
        "ms": 20.0, "gflop_per_s": 50.0, "gbyte_per_s": 1.0, "roofline_share": 0.5, "bound": "arithmetic",
    }  # fmt: skip
    assert peak.seconds(1_000_000_000, 20_000_000) == 0.01 and peak.seconds(0, 20_000_000) == 0.002
    assert peak.bound(1_000_000, 20_000_000) == "memory"


def test_the_machines_roofline() -> None:
    copied = np.zeros(10, np.float32)
    from bench.roofline import _copier

    _copier(CPU, np.arange(10, dtype=np.float32), copied)()
    assert copied.tolist() == list(range(10))
    found = measure(size=64, megabytes=1, seconds=0.01)
    assert found.gflop_per_s > 0 and found.gbyte_per_s > 0


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 2, "dilation": 2},
        {"stride": 2, "padding": ((0, 2), (1, 1))},
        {"groups": 2, "padding": "same"},
    ],
)
def test_useful_flops_one_by_one(options: dict[str, Any]) -> None:
    g = Conv2dGeometry.of((2, 5, 4, 4), (3, 3, 4 // options.get("groups", 1), 6), **options)
    count = 0
    for i in range(g.out_height):
        for j in range(g.out_width):
            for p in range(3):
                for q in range(3):
                    row = i * g.stride[0] - g.padding[0] + p * g.dilation[0]
                    column = j * g.stride[1] - g.padding[2] + q * g.dilation[1]
                    count += 0 <= row < 5 and 0 <= column < 4
    assert useful_flops(g) == 2 * 2 * count * (4 // g.groups) * 6
    assert useful_flops(g) < g.flops


def test_whats_timed_on_a_gpu_is_many_calls_and_one_wait() -> None:
    events: list[str] = []
    device = SimpleNamespace(synchronize=lambda: events.append("wait"))
    call, count = contest.burst(lambda: events.append("call"), device)  # type: ignore[arg-type]
    call()
    assert count == contest.CALLS_A_ROUND and events == ["call"] * count + ["wait"]
