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
    scale: np.ndarray,
    *,
    batch_size: int,
) -> None:
    step, position, start, so_far, failed = counters.tolist()
    value = float(loss.reshape(()))
    if not (math.isfinite(value) and math.isfinite(scale.reshape(()))):
        failed, value = step if failed < 0 else failed, math.nan
    numbers[:] = rates[min(position, len(rates) - 1)], numbers[1] + value
    if math.isnan(numbers[1]):
        scale[...] = math.nan
    counters[:] = step + 1, position + 1, start + batch_size, so_far + int(correct.reshape(())), failed
