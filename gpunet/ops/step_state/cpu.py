"""Step counters on the CPU: a few scalar operations, compiled only to avoid Python's overhead."""

from __future__ import annotations

import math

import numpy as np

from gpunet.ops._numba import jit


@jit
def _advance(counters, numbers, rates, loss, correct, batch_size):
    if counters[4] < 0 and not math.isfinite(loss):
        counters[4] = counters[0]
    numbers[0] = rates[min(counters[1], rates.size - 1)]
    numbers[1] += loss
    counters[0] += 1
    counters[1] += 1
    counters[2] += batch_size
    counters[3] += correct


def advance_step(
    counters: np.ndarray,
    numbers: np.ndarray,
    rates: np.ndarray,
    loss: np.ndarray,
    correct: np.ndarray,
    batch_size: int,
) -> None:
    _advance(counters, numbers, rates, float(loss.item()), int(correct.item()), batch_size)
