"""The bookkeeping of a training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops.step_state import advance_step, reference


def state() -> tuple[np.ndarray, np.ndarray]:
    return np.array([7, 0, 0, 0, -1]), np.zeros(2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_by_hand(dtype: Any) -> None:
    counters, numbers = state()
    rates = np.array([0.5, 0.25])
    for loss, correct in ((2.0, 3), (1.5, 4), (np.inf, 0), (np.nan, 1)):
        scale = np.array(0.5, dtype)
        advance_step(counters, numbers, rates, np.array(loss, dtype), np.array(correct), scale, batch_size=16)
        assert scale == 0.5 if np.isfinite(loss) else np.isnan(scale)
        if np.isfinite(loss):
            after = counters.tolist(), numbers.tolist()
    assert after == ([9, 2, 32, 7, -1], [0.25, 3.5])
    assert counters.tolist() == [11, 4, 64, 8, 9], "the first bad step is kept, and the last rate"
    assert numbers[0] == 0.25 and np.isnan(numbers[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_fails_the_step_and_all_later_ones(bad: float) -> None:
    counters, numbers = state()
    seen = []
    for factor in (1.0, bad, 1.0):
        scale = np.array(factor)
        advance_step(counters, numbers, np.ones(1), np.array(2.0), np.array(1), scale, batch_size=4)
        seen.append(float(scale))
    assert counters.tolist() == [10, 3, 12, 3, 8] and np.isnan(numbers[1])
    assert seen[0] == 1.0 and np.isnan(seen[1:]).all()


@settings(max_examples=50)
@given(
    losses=st.lists(st.floats(-9, 9, width=32) | st.just(float("nan")), min_size=1, max_size=6),
    scales=st.lists(st.floats(0, 1, width=32) | st.just(float("inf")), min_size=6, max_size=6),
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    batch=st.integers(1, 300),
)
def test_cpu_matches_reference(losses: list[float], scales: list[float], rates: list[float], batch: int) -> None:
    ours, theirs = state(), state()
    for loss, factor in zip(losses, scales, strict=False):
        arguments = np.array(rates), np.array(loss, np.float32), np.array(batch // 2)
        scale, wanted = np.array(factor, np.float32), np.array(factor, np.float32)
        advance_step(*ours, *arguments, scale, batch_size=batch)
        reference.advance_step(*theirs, *arguments, wanted, batch_size=batch)
        np.testing.assert_array_equal(scale, wanted)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_bad_arguments() -> None:
    counters, numbers = state()
    rates, loss, correct, scale = np.ones(2), np.array(1.0), np.array(1), np.array(1.0)
    with pytest.raises(ShapeError, match=r"counters must have shape \(5,\)"):
        advance_step(counters[:4], numbers, rates, loss, correct, scale, batch_size=1)
    with pytest.raises(ShapeError, match="rates must have shape"):
        advance_step(counters, numbers, rates[:0], loss, correct, scale, batch_size=1)
    with pytest.raises(DTypeError, match="numbers must be float64, got float32"):
        advance_step(counters, numbers.astype(np.float32), rates, loss, correct, scale, batch_size=1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        advance_step(counters, numbers, rates, loss, correct, scale, batch_size=0)
