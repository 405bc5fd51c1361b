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
        advance_step(counters, numbers, rates, np.array(loss, dtype), np.array(correct), batch_size=16)
        if np.isfinite(loss):
            after = counters.tolist(), numbers.tolist()
    assert after == ([9, 2, 32, 7, -1], [0.25, 3.5])
    assert counters.tolist() == [11, 4, 64, 8, 9], "the first bad step is kept, and the last rate"
    assert numbers[0] == 0.25 and np.isnan(numbers[1])


@settings(max_examples=50)
@given(
    losses=st.lists(st.floats(-9, 9, width=32) | st.just(float("nan")), min_size=1, max_size=6),
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    batch=st.integers(1, 300),
)
def test_cpu_matches_reference(losses: list[float], rates: list[float], batch: int) -> None:
    ours, theirs = state(), state()
    for loss in losses:
        arguments = np.array(rates), np.array(loss, np.float32), np.array(batch // 2)
        advance_step(*ours, *arguments, batch_size=batch)
        reference.advance_step(*theirs, *arguments, batch_size=batch)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_bad_arguments() -> None:
    counters, numbers = state()
    rates, loss, correct = np.ones(2), np.array(1.0), np.array(1)
    with pytest.raises(ShapeError, match=r"counters must have shape \(5,\)"):
        advance_step(counters[:4], numbers, rates, loss, correct, batch_size=1)
    with pytest.raises(ShapeError, match="rates must have shape"):
        advance_step(counters, numbers, rates[:0], loss, correct, batch_size=1)
    with pytest.raises(DTypeError, match="numbers must be float64, got float32"):
        advance_step(counters, numbers.astype(np.float32), rates, loss, correct, batch_size=1)
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        advance_step(counters, numbers, rates, loss, correct, batch_size=0)
