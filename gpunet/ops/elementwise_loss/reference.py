"""Losses by definition, element by element, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def mse_loss(
    outputs: np.ndarray, targets: np.ndarray, *, sample_weight: np.ndarray | None = None, reduction: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    def element(x: float, t: float, column: int) -> tuple[float, float]:
        return (x - t) ** 2, 2 * (x - t)

    return _reduced(element, outputs, targets, sample_weight, reduction)


def huber_loss(
    outputs: np.ndarray,
    targets: np.ndarray,
    *,
    delta: float = 1.0,
    sample_weight: np.ndarray | None = None,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    def element(x: float, t: float, column: int) -> tuple[float, float]:
        error = x - t
        if abs(error) <= delta:
            return error**2 / 2, error
        return delta * (abs(error) - delta / 2), math.copysign(delta, error)

    return _reduced(element, outputs, targets, sample_weight, reduction)


def binary_cross_entropy_with_logits(
    outputs: np.ndarray,
    targets: np.ndarray,
    *,
    pos_weight: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    def element(x: float, t: float, column: int) -> tuple[float, float]:
        positive = t * (1.0 if pos_weight is None else float(pos_weight[column]))
        tail = math.exp(-abs(x))
        p, q = (1 / (1 + tail), tail / (1 + tail)) if x >= 0 else (tail / (1 + tail), 1 / (1 + tail))
        log_p, log_q = min(x, 0.0) - math.log1p(tail), min(-x, 0.0) - math.log1p(tail)
        return -positive * log_p - (1 - t) * log_q, (1 - t) * p - positive * q

    return _reduced(element, outputs, targets, sample_weight, reduction)


def _reduced(
    element: Callable[[float, float, int], tuple[float, float]],
    outputs: np.ndarray,
    targets: np.ndarray,
    sample_weight: np.ndarray | None,
    reduction: str,
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = outputs.shape
    weights = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    losses, gradient = np.zeros(outputs.shape), np.zeros(outputs.shape)
    for row, column in np.ndindex(rows, columns):
        found = element(float(outputs[row, column]), float(targets[row, column]), column)
        losses[row, column], gradient[row, column] = (value * weights[row] for value in found)
    if reduction == "none":
        return losses.astype(outputs.dtype), gradient.astype(outputs.dtype)
    divisor = columns * math.fsum(weights) if reduction == "mean" else 1.0
    return np.array(math.fsum(losses.ravel()) / divisor, outputs.dtype), (gradient / divisor).astype(outputs.dtype)
