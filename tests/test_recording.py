"""Recorded steps: what is called again, in which memory, and when a step is not recorded."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet import aligned, ops, recording
from gpunet.backend import CPU
from gpunet.machine import give_freed_memory_back
from gpunet.ops import _intercept
from gpunet.ops._numba import jit
from gpunet.recording import LINE, Recorded, arranged, run

LARGE = aligned.SMALL  # bytes, and in these tests float64 elements


@jit
def _add(x, number, y):
    for i in range(x.size):
        y[i] = x[i] + number


@jit
def _add_both(pair, y):
    for i in range(y.size):
        y[i] = pair[0][i] + pair[1][i]


@jit
def _first(x):
    return x[0]


@jit
def _new_for_each_type(x, y):
    y[0] = x[0]


class Pair(NamedTuple):
    first: np.ndarray
    second: np.ndarray


def added(x: np.ndarray, number: float) -> np.ndarray:
    y = aligned.empty(x.shape)
    _add(x.reshape(-1), number, y.reshape(-1))
    return y


def twice(step: Callable[[], Any]) -> Recorded[Any]:
    """`step`, run and recorded."""
    found = Recorded(step)
    found()
    found()
    return found


def test_the_first_call_runs_the_second_records_and_later_ones_repeat() -> None:
    x, y, called = np.zeros(3), np.empty(3), []

    def step() -> str:
        called.append(1)
        _add(x, 1.0, y)
        return "result"

    recorded = Recorded(step)
    for number in range(5):
        x[:] = number
        y[:] = -1
        assert recorded() == "result"
        assert y.tolist() == [number + 1] * 3
        assert len(called) == min(number + 1, 2)
        assert (recorded.calls is None) == (number < 1)
    assert recorded.calls is not None and len(recorded.calls) == 1


def test_what_run_calls_is_repeated_but_not_what_that_calls() -> None:
    x, y, called = np.zeros(2), np.empty(2), []

    def host(x: np.ndarray, y: np.ndarray) -> None:
        called.append(1)
        scratch = aligned.empty(LARGE)
        run(np.copyto, scratch[:2], x)
        _add(scratch[:2], float(x[0]), y)

    recorded = twice(lambda: run(host, x, y))
    assert recorded.calls is not None and len(recorded.calls) == 1 and recorded.memory.size == LINE
    x[:] = 3, 4
    recorded()
    assert y.tolist() == [6, 7] and len(called) == 3


def test_errors_of_what_run_calls_are_raised_again() -> None:
    x = np.zeros(1)

    def check(x: np.ndarray) -> None:
        if x[0]:
            raise ValueError(f"x is {x[0]}")

    recorded = twice(lambda: run(check, x))
    recorded()
    x[0] = 2
    with pytest.raises(ValueError, match=r"x is 2\.0"):
        recorded()
    x[0] = 0
    recorded()


def test_arrays_that_are_dropped_share_memory_that_is_not_kept() -> None:
    x, y = np.arange(LARGE, dtype=np.float64), np.empty(LARGE)

    def step() -> None:
        a = x
        for number in range(1, 6):  # each is dropped when the next one is there
            a = added(a, number)
        run(np.copyto, y, a)

    recorded = twice(step)
    assert recorded.memory.size == 2 * x.nbytes + LINE
    x += 1
    recorded.memory.fill(0xFF)
    recorded()
    np.testing.assert_array_equal(y, x + 15)


def test_views_of_dropped_arrays() -> None:
    x, y = np.arange(LARGE, dtype=np.float64).reshape(4, -1), np.empty((2, LARGE // 4))

    def step() -> None:
        a = added(x, 1)
        pair = Pair(a[1], a.reshape(-1)[-a.shape[1] :])
        _add_both(pair, y[0])
        _add_both((a.T[:, 0], a[::2][1]), y[1])

    recorded = twice(step)
    x *= -1
    recorded.memory.fill(0xFF)
    recorded()
    np.testing.assert_array_equal(y, [x[1] + x[3] + 2, x[0] + x[2] + 2])


def test_results_stay_where_they_are() -> None:
    x = np.zeros(LARGE)
    recorded = twice(lambda: added(added(x, 1), 2))
    y = recorded()
    x += 5
    assert y[0] == 3 and recorded() is y and (y == 8).all()
    assert recorded.memory.size == x.nbytes + LINE, "of what was dropped alone"


def test_zeros_and_copies_are_made_again() -> None:
    x, y = np.ones((300, 300)), np.empty(300 * 300)

    def step() -> None:
        total = aligned.zeros(x.shape)
        run(np.add, total, aligned.contiguous(x.T), total)
        run(np.copyto, y, total.reshape(-1))

    recorded = twice(step)
    x[:] = np.arange(300)
    for _ in range(2):
        recorded.memory.fill(0xFF)
        recorded()
        np.testing.assert_array_equal(y.reshape(x.shape), x.T)


def test_a_kernel_that_returns_something_keeps_a_step_from_being_recorded() -> None:
    x, y = np.zeros(1), np.zeros(1)
    recorded = Recorded(lambda: _add(x, _first(x), y))
    for number in range(6):
        x[0] = number
        recorded()
        assert y[0] == 2 * number
    assert recorded.calls is None
    assert recorded.memory.size == 0


def test_a_kernel_compiled_in_the_second_run_is_heard_in_the_third() -> None:
    arrays = [np.zeros(1, dtype) for dtype in (np.float32, np.int16)]
    result, runs = np.zeros(1), []

    def step() -> None:
        runs.append(1)
        for _ in range(2):
            _new_for_each_type(arrays[len(runs) > 1], result)

    recorded = Recorded(step)
    recorded()
    recorded()
    assert recorded.calls is None
    arrays[1][0] = 7
    recorded()
    assert recorded.calls is not None and len(recorded.calls) == 2 and result[0] == 7
    arrays[1][0] = 8
    recorded()
    assert result[0] == 8 and len(runs) == 3


def test_an_error_in_the_run_that_is_recorded() -> None:
    x, y, fails = np.zeros(1), np.zeros(1), [False, True, False]

    def step() -> None:
        _add(x, 1.0, y)
        if fails.pop(0):
            raise KeyError("step")

    recorded = Recorded(step)
    recorded()
    with pytest.raises(KeyError, match="step"):
        recorded()
    assert recording._active is None
    _add(x, 2.0, y)
    assert y[0] == 2
    recorded()
    x[0] = 3
    recorded()
    assert y[0] == 4 and not fails


def test_other_threads_call_kernels_while_a_step_is_recorded() -> None:
    x, y, z = np.zeros(1), np.zeros(1), np.zeros(LARGE)

    def other() -> None:
        run(np.copyto, z, added(np.ones(LARGE), 1.0))

    def step() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        _add(x, 1.0, y)

    recorded = twice(step)
    assert (z == 2).all()
    assert recorded.calls is not None and len(recorded.calls) == 1 and recorded.memory.size == LINE


def test_a_step_within_another_is_recorded_with_it() -> None:
    x, y = np.zeros(1), np.zeros(1)
    inner = Recorded(lambda: _add(x, 1.0, y))
    outer = twice(inner)
    assert inner.calls is None and outer.calls is not None and len(outer.calls) == 1


def test_kernels_are_their_own_again_afterwards() -> None:
    x, y, asked = np.zeros(1), np.zeros(1), []
    with _intercept.intercepted(lambda kernel, args: asked.append(kernel) or _intercept.code_of(kernel, args)):
        _add(x, 1.0, y)
    assert asked == [_add] and y[0] == 1
    _add(x, 2.0, y)
    assert asked == [_add] and y[0] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_records() -> None:
    """The child has the kernels' code, and may record."""
    x, y, inside, over = np.zeros(1), np.zeros(1), threading.Event(), threading.Event()
    _add(x, 1.0, y)

    def record() -> None:
        with _intercept.intercepted(_intercept.code_of):
            inside.set()
            over.wait()

    thread = threading.Thread(target=record)
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        _add._compile_for_args = lambda *args: os._exit(1)  # asked for code that it has
        _add(x, 2.0, y)
        os._exit(2 if y[0] != 2 or _intercept._lock.locked() else 0)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_capture_records_what_is_nothing_but_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.float32([-1, 2])
    step: Callable[[], np.ndarray] = lambda: ops.relu(x)  # noqa: E731
    assert CPU.capture(step) is step, "NumPy may compute in it, too"
    captured = CPU.capture(step, only_ops=True)
    assert [captured().tolist() for _ in range(3)] == [[0, 2]] * 3
    x[:] = 3, -4
    assert captured().tolist() == [3, 0]
    monkeypatch.setattr(CPU, "captures", False)
    assert CPU.capture(step, only_ops=True) is step


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of GNU's malloc")
def test_freed_memory_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    arrays = [np.ones(2**19, np.uint8) for _ in range(200)]  # small enough to lie in malloc's heap
    last = arrays[-1]  # which keeps the heap from shrinking
    arrays.clear()
    before = resident()
    give_freed_memory_back()
    assert resident() < before - 2**26 and last.all()


@st.composite
def leases(draw: Any) -> list[tuple[int, int, int]]:
    """(size, first, end), in the order of `first`."""
    firsts = sorted(draw(st.lists(st.integers(0, 12), max_size=12)))
    return [(draw(st.integers(0, 300)), first, first + draw(st.integers(0, 6))) for first in firsts]


@given(leases())
def test_places_of_arrays_that_are_needed_at_the_same_time_do_not_overlap(leases: list[tuple[int, int, int]]) -> None:
    places = arranged(leases)
    assert all(place % LINE == 0 and place >= 0 for place in places)
    owners: dict[tuple[int, int], int] = {}
    for number, (place, (size, first, end)) in enumerate(zip(places, leases, strict=True)):
        for call in range(first, end):
            for byte in range(place, place + size):
                assert owners.setdefault((call, byte), number) == number
    whole = sum(-(-size // LINE) * LINE for size, *_ in leases)
    assert max((place + size for place, (size, *_) in zip(places, leases, strict=True)), default=0) <= whole


def test_the_largest_is_placed_first_and_each_where_it_is_free_first() -> None:
    assert arranged([(100, 0, 2), (64, 0, 4), (10, 1, 3), (128, 2, 3), (129, 2, 3)]) == [0, 320, 384, 192, 0]
