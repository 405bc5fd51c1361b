"""Step counters on the CPU: a few scalar operations, compiled only to avoid Python's overhead."""

from __future__ import annotations

import math

import numpy as np

from gpunet.ops._numba import jit


@jit
def _advance(counters, numbers, rates, loss, correct, scale, batch_size):
    added = float(loss[0])
    if not (math.isfinite(added) and math.isfinite(scale[0])):
        added = math.nan
        if counters[4] < 0:
            counters[4] = counters[0]
    numbers[0] = rates[min(counters[1], rates.size - 1)]
    numbers[1] += added
    if math.isnan(numbers[1]):
        scale[0] = math.nan
    counters[0] += 1
    counters[1] += 1
    counters[2] += batch_size
    counters[3] += correct[0]


def advance_step(
    counters: np.ndarray,
    numbers: np.ndarray,
    rates: np.ndarray,
    loss: np.ndarray,
    correct: np.ndarray,
    scale: np.ndarray,
    batch_size: int,
) -> None:
    _advance(counters, numbers, rates, loss.reshape(1), correct.reshape(1), scale.reshape(1), batch_size)
