"""Losses of numbers on the CPU: one pass over the rows, in float64, parallel over chunks ("pieces") of rows."""

from __future__ import annotations

import math

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.recording import run

_ELEMENTS = 4096  # approximate number of elements per piece
_NONE = np.empty(0)


@jit
def _element(kind, x, t, delta, positive):
    """Loss and gradient of an element; `kind` as in the package, `positive` the weight of a target of 1."""
    if kind == 0:
        error = x - t
        return error * error, 2.0 * error
    if kind == 1:
        error = x - t
        size = abs(error)
        if size > delta:
            return delta * (size - 0.5 * delta), math.copysign(delta, error)
        return 0.5 * error * error, error
    tail = math.exp(-abs(x))
    log_one = math.log1p(tail)
    small, large = tail / (1.0 + tail), 1.0 / (1.0 + tail)
    p, q = (large, small) if x >= 0 else (small, large)
    loss = positive * t * (log_one + max(-x, 0.0)) + (1.0 - t) * (log_one + max(x, 0.0))
    return loss, (1.0 - t) * p - positive * t * q


@jit
def _piece(kind, outputs, targets, delta, pos_weight, weights, scale, sums, losses, gradient):
    for r in range(outputs.shape[0]):
        weight = weights[r] if weights.size else 1.0
        total = 0.0
        for k in range(outputs.shape[1]):
            positive = pos_weight[k] if pos_weight.size else 1.0
            x, t = np.float64(outputs[r, k]), np.float64(targets[r, k])
            loss, slope = _element(kind, x, t, delta, positive)
            total += loss
            gradient[r, k] = scale * weight * slope
            if losses.size:
                losses[r, k] = weight * loss
        sums[r] = weight * total


@jit
def _losses(kind, outputs, targets, delta, pos_weight, weights, scale, sums, losses, gradient, rows):
    n = outputs.shape[0]
    for p in prange((n + rows - 1) // rows):
        part = slice(p * rows, (p + 1) * rows)
        _piece(
            kind,
            outputs[part],
            targets[part],
            delta,
            pos_weight,
            weights[part],
            scale,
            sums[part],
            losses[part],
            gradient[part],
        )


@jit
def _sum(values):
    total = 0.0
    for value in values:
        total += value
    return total


def elementwise_loss(
    kind: int,
    outputs: np.ndarray,
    targets: np.ndarray,
    delta: float,
    pos_weight: np.ndarray | None,
    sample_weight: np.ndarray | None,
    reduction: str,
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = outputs.shape
    gradient = aligned.empty((rows, columns), outputs.dtype)
    loss = np.empty((rows, columns) if reduction == "none" else (), outputs.dtype)
    run(_loss_and_gradient, kind, outputs, targets, delta, (pos_weight, sample_weight), reduction, loss, gradient)
    return loss, gradient


def _loss_and_gradient(
    kind: int,
    outputs: np.ndarray,
    targets: np.ndarray,
    delta: float,
    given: tuple[np.ndarray | None, np.ndarray | None],
    reduction: str,
    loss: np.ndarray,
    gradient: np.ndarray,
) -> None:
    """`given`: the weights of positive targets and of the rows."""
    (rows, columns), (pos_weight, sample_weight) = outputs.shape, given
    weights = _NONE if sample_weight is None else sample_weight.astype(np.float64)
    positive = _NONE if pos_weight is None else pos_weight.astype(np.float64)
    divisor = 1.0
    if reduction == "mean":
        divisor = columns * (float(rows) if sample_weight is None else _sum(weights))
    scale = 1.0 / divisor if divisor else math.nan  # as 0 / 0: all weights are zero
    sums, losses = np.empty(rows), loss if reduction == "none" else np.empty((0, columns), outputs.dtype)
    arrays = np.ascontiguousarray(outputs), np.ascontiguousarray(targets), delta, positive, weights
    _losses(kind, *arrays, scale, sums, losses, gradient, max(1, _ELEMENTS // columns))
    if reduction != "none":
        loss[...] = _sum(sums) * scale
