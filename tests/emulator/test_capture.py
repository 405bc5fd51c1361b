"""Captured steps: what is replayed is what was launched, and what a graph would not hold is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.emulator import EMULATED, EmulationError, missing
from tests.emulator.planted import device, launch, output

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

SOURCE = """
extern "C" __global__ void add(const float* x, const float* y, float* z, float number) {
    z[threadIdx.x] = x[threadIdx.x] + y[threadIdx.x] + number;
}
"""


def add(x: Any, y: Any, z: Any, number: float = 0) -> None:
    launch(SOURCE, "add", x, y, z, np.float32(number), block=4)


def test_replay_runs_the_launches_and_not_the_code() -> None:
    calls = []
    total, one = device(np.zeros(4)), device(np.ones(4))

    def step() -> None:
        calls.append(1)
        temporary = EMULATED.xp.empty(4, np.float32)
        add(one, one, temporary)
        add(total, temporary, total)

    captured = EMULATED.capture(step)
    for i in range(1, 6):
        captured()
        assert len(calls) == min(i, 2)
        np.testing.assert_array_equal(total.get(), 2 * i)
    one[...] = 10
    captured()
    np.testing.assert_array_equal(total.get(), 30)


def test_numbers_are_frozen() -> None:
    state = {"number": 0.0}
    total = device(np.zeros(4))

    def step() -> None:
        state["number"] += 1
        add(total, device_zero, total, state["number"])

    device_zero = device(np.zeros(4))
    captured = EMULATED.capture(step)
    totals = []
    for _ in range(4):
        captured()
        totals.append(float(total[0]))
    assert totals == [1, 3, 5, 7]  # and not 1, 3, 6, 10


def test_memory_of_an_earlier_replay_is_gone() -> None:
    kept: dict[str, Any] = {}
    total, one = device(np.zeros(4)), device(np.ones(4))

    def step() -> None:
        if "running" not in kept:
            kept["running"] = EMULATED.xp.zeros(4, np.float32)  # the first run's, so an array of its own
        if "capturing" not in kept and kept.get("warm"):
            kept["capturing"] = EMULATED.xp.empty(4, np.float32)  # the graph's
        add(kept.get("capturing", one), one, kept.get("capturing", total))
        add(kept["running"], one, kept["running"])
        kept["warm"] = True

    captured = EMULATED.capture(step)
    for _ in range(3):
        captured()
    np.testing.assert_array_equal(kept["running"].get(), 3)
    assert np.isnan(kept["capturing"].get()).all()


def test_zeros_is_part_of_the_graph() -> None:
    total, one = device(np.zeros(4)), device(np.ones(4))

    def step() -> None:
        buffer = EMULATED.xp.zeros(4, np.float32)
        add(buffer, one, buffer)
        add(buffer, total, total)

    captured = EMULATED.capture(step)
    for i in range(1, 5):
        captured()
        np.testing.assert_array_equal(total.get(), i)


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (lambda x: float(x[0]), "float"),
        (lambda x: bool(x[0] > 0), "greater"),
        (lambda x: int(x[0]), "int"),
        (lambda x: x[0].item(), "item"),
        (lambda x: x.get(), "get"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: EMULATED.to_numpy(x), "get"),
        (lambda x: str(x), "str"),
        (lambda x: x + 1, "add"),
        (lambda x: x.sum(), "sum"),
        (lambda x: x.__iadd__(1), "add"),
        (lambda x: x.__setitem__(0, 1), "assignment"),
        (lambda x: x.copy(), "copy"),
        (lambda x: x.astype(np.float64), "astype"),
        (lambda x: x.fill(0), "fill"),
        (lambda x: x[x], "indexing with an array"),
        (lambda x: x.reshape(2, 2).T.reshape(-1), "copy by reshape"),
        (lambda x: EMULATED.xp.ascontiguousarray(x[::2]), "copy"),
        (lambda x: EMULATED.asarray(np.ones(3)), "copy"),
        (lambda x: EMULATED.xp.concatenate([x, x]), "concatenate"),
        (lambda x: EMULATED.xp.ones(3), "full"),
        (lambda x: EMULATED.synchronize(), "synchronize"),
        (lambda x: EMULATED.capture(lambda: None)(), "captured step"),
    ],
)
def test_what_a_graph_does_not_hold_is_refused(action: Callable[[Any], Any], what: str) -> None:
    x = device(np.arange(4), np.int64)
    calls = []

    def step() -> None:
        calls.append(1)
        if len(calls) > 1:
            action(x)

    captured = EMULATED.capture(step)
    captured()
    with pytest.raises(EmulationError, match=f"{what}.* is not allowed while a graph is captured"):
        captured()
    action(x)  # afterwards it is


def test_views_are_allowed_while_capturing() -> None:
    x, y = device(np.arange(8)), output(4)
    step = EMULATED.capture(lambda: add(x[:4].reshape(2, 2), x[4:], y))
    step()
    step()
    np.testing.assert_array_equal(y.get(), [4, 6, 8, 10])


def test_error_in_a_replay() -> None:
    order = device([0], np.int32)
    text = 'extern "C" __global__ void check(const int* x) { if (x[0]) __trap(); }'
    step = EMULATED.capture(lambda: launch(text, "check", order, block=1))
    for _ in range(3):
        step()
    order[0] = 1
    with pytest.raises(EmulationError, match="__trap"):
        step()
