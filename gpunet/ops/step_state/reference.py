"""Step counters, statement by statement."""

from __future__ import annotations

import math

import numpy as np


def advance_step(
    counters: np.ndarray,
    numbers: np.ndarray,
    rates: np.ndarray,
    loss: np.ndarray,
    correct: np.ndarray,
    *,
    batch_size: int,
) -> None:
    step, position, start, so_far, failed = counters.tolist()
    value = float(loss.reshape(()))
    if failed < 0 and not math.isfinite(value):
        failed = step
    numbers[:] = rates[min(position, len(rates) - 1)], numbers[1] + value
    counters[:] = step + 1, position + 1, start + batch_size, so_far + int(correct.reshape(())), failed
