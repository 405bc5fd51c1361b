"""Softmax and cross-entropy on the CPU: one pass per row, parallel over chunks ("pieces") of rows.

Exponentials are computed in the dtype of the logits; their sum, its logarithm and the loss in float64.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.errors import DataError
from gpunet.ops._exp import exp_nonpositive
from gpunet.ops._numba import jit, prange
from gpunet.ops._reduce import LANES, vector_maximum, vector_sum
from gpunet.recording import run

_ELEMENTS = 4096  # approximate number of logits per piece: some tens of microseconds of work


_NO_FACTORS = np.empty(0)


def _piece(classes: int) -> int:
    """Rows per piece."""
    return max(1, _ELEMENTS // classes)


# A NaN is never the maximum, but exp(NaN - maximum) propagates it to the sum and so to the whole row.


@jit
def _maximum(row):
    whole = row.size // LANES * LANES
    largest = vector_maximum(row, 0, whole) if whole else row[0]
    for c in range(whole, row.size):
        if row[c] > largest:
            largest = row[c]
    return largest


@jit
def _exponentials(row, out):
    """Write exp(row - maximum) to `out`; returns the maximum and the sum, both in float64."""
    largest = _maximum(row)
    for c in range(row.size):
        out[c] = exp_nonpositive(row[c] - largest)
    whole = row.size // LANES * LANES
    total = vector_sum(out, 0, whole) if whole else 0.0
    for c in range(whole, row.size):
        total += out[c]
    return np.float64(largest), total


@jit
def _softmax_piece(x, out, log):
    for r in range(x.shape[0]):
        largest, total = _exponentials(x[r], out[r])
        log_total, inverse = math.log(total), 1.0 / total
        for c in range(x.shape[1]):
            out[r, c] = x[r, c] - largest - log_total if log else out[r, c] * inverse


@jit
def _softmax(x, out, log, rows):
    for p in prange((x.shape[0] + rows - 1) // rows):
        part = slice(p * rows, (p + 1) * rows)
        _softmax_piece(x[part], out[part], log)


@jit
def _sum(x):
    total = 0.0
    for value in x:
        total += value
    return total


@jit
def _exponentials_of_short_rows(x, out):
    """Write exp(row - maximum) of each row to `out`: of all at once, as a row does not fill a vector."""
    for r in range(x.shape[0]):
        largest = _maximum(x[r])
        for c in range(x.shape[1]):
            out[r, c] = x[r, c] - largest
    flat = out.reshape(-1)
    for i in range(flat.size):
        flat[i] = exp_nonpositive(flat[i])


@jit
def _cross_entropy_piece(logits, labels, weight, all_weights, smoothing, scale, losses, dlogits):
    spread = smoothing / logits.shape[1]
    few = logits.shape[1] < LANES
    if few:
        _exponentials_of_short_rows(logits, dlogits)
    for r in range(logits.shape[0]):
        x, d, label = logits[r], dlogits[r], labels[r]
        largest, total = (np.float64(_maximum(x)), _sum(d)) if few else _exponentials(x, d)
        log_total = math.log(total)
        own = (1.0 - smoothing) * weight[label]
        factor = scale * (own + spread * all_weights) / total
        loss = own * (log_total - (x[label] - largest))
        # The label's probability may be so close to 1 that the difference needs float64.
        label_gradient = factor * d[label] - scale * (own + spread * weight[label])
        if spread == 0.0:  # separate, as 0 * -log(0) is NaN
            for c in range(x.size):
                d[c] = factor * d[c]
        else:
            for c in range(x.size):
                loss += spread * weight[c] * (log_total - (x[c] - largest))
                d[c] = factor * d[c] - scale * spread * weight[c]
        d[label] = label_gradient
        losses[r] = loss


@jit
def _cross_entropy(logits, labels, weight, all_weights, smoothing, scale, losses, dlogits, rows):
    for p in prange((logits.shape[0] + rows - 1) // rows):
        part = slice(p * rows, (p + 1) * rows)
        _cross_entropy_piece(
            logits[part], labels[part], weight, all_weights, smoothing, scale, losses[part], dlogits[part]
        )


@jit
def _adjust(losses, dlogits, labels, weight, factors, gamma, scale):
    """Multiply rows by their `factors` and the focal loss's, and gradients by `scale`, too; returns the sum."""
    for r in range(losses.size):
        factor = factors[r] if factors.size else 1.0
        slope = factor
        if gamma != 0.0:
            log_p = -losses[r] / weight[labels[r]] if weight[labels[r]] != 0.0 else 0.0
            rest = -math.expm1(log_p)
            modulation = rest**gamma
            slope = factor * modulation
            if rest > 0.0 and log_p > -math.inf:
                slope -= factor * gamma * math.exp(log_p) * rest ** (gamma - 1.0) * log_p
            factor *= modulation
        losses[r] *= factor
        for c in range(dlogits.shape[1]):
            dlogits[r, c] *= slope * scale
    return _sum(losses)


@jit
def _count_correct(logits, labels):
    count = 0
    for r in range(logits.shape[0]):
        best, largest, clean = 0, logits[r, 0], True
        for c in range(logits.shape[1]):
            value = logits[r, c]
            clean &= value == value
            if value > largest:
                best, largest = c, value
        count += clean and best == labels[r]
    return count


@jit
def _all_within(labels, classes):
    within = True
    for label in labels:
        within &= 0 <= label < classes
    return within


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    if not _all_within(labels, classes):
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        raise DataError(
            f"labels must be in [0, {classes}) for {classes} classes, got {labels[wrong[0]]} at index {wrong[0]}"
            + (f" and {wrong.size - 1} more out of range" if wrong.size > 1 else "")
        )
    return np.ascontiguousarray(labels, np.int64)


@functools.cache
def _ones(classes: int) -> np.ndarray:
    """Shared, so treat as read-only; not flagged read-only, as Numba would recompile every kernel for that type."""
    return np.ones(classes)


def _rows(x: np.ndarray) -> np.ndarray:
    return contiguous(x).reshape(-1, x.shape[-1])


def softmax(x: np.ndarray, log: bool = False) -> np.ndarray:
    out = aligned.empty_like(x)
    _softmax(_rows(x), out.reshape(-1, x.shape[-1]), log, _piece(x.shape[-1]))
    return out


def log_softmax(x: np.ndarray) -> np.ndarray:
    return softmax(x, log=True)


def softmax_cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    label_smoothing: float,
    weight: np.ndarray | None,
    sample_weight: np.ndarray | None,
    gamma: float,
    reduction: str,
) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = logits.shape
    losses, dlogits = np.empty(rows), aligned.empty((rows, classes), logits.dtype)
    loss = np.empty(rows if reduction == "none" else (), logits.dtype)
    run(_losses, logits, labels, label_smoothing, (weight, sample_weight), gamma, reduction, losses, dlogits, loss)
    return loss, dlogits


def _losses(
    logits: np.ndarray,
    labels: np.ndarray,
    label_smoothing: float,
    given: tuple[np.ndarray | None, np.ndarray | None],
    gamma: float,
    reduction: str,
    losses: np.ndarray,
    dlogits: np.ndarray,
    loss: np.ndarray,
) -> None:
    """`given`: the weights of the classes and of the rows."""
    (rows, classes), (weight, sample_weight) = logits.shape, given
    labels = _checked_labels(labels, classes)
    weights = _ones(classes) if weight is None else weight.astype(np.float64)
    divisor = 1.0
    if reduction == "mean":
        divisor = float(rows) if weight is None else float(weights[labels].sum())
        if sample_weight is not None:
            divisor = float((weights[labels] * sample_weight).sum())
    scale = 1.0 / divisor if divisor else math.nan  # as 0 / 0: all weights are zero
    all_weights = float(classes) if weight is None else float(weights.sum())
    logits = np.ascontiguousarray(logits)
    adjusted = sample_weight is not None or gamma != 0
    first = 1.0 if adjusted else scale
    kernel_args = logits, labels, weights, all_weights, label_smoothing, first, losses, dlogits
    _cross_entropy(*kernel_args, _piece(classes))
    total = _sum(losses)
    if adjusted:
        factors = _NO_FACTORS if sample_weight is None else sample_weight.astype(np.float64)
        total = _adjust(losses, dlogits, labels, weights, factors, gamma, scale)
    loss[...] = losses if reduction == "none" else total * scale


def count_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    count = np.empty((), np.int64)
    run(_count, logits, labels, count)
    return count


def _count(logits: np.ndarray, labels: np.ndarray, count: np.ndarray) -> None:
    labels = _checked_labels(labels, logits.shape[1])
    count[...] = _count_correct(np.ascontiguousarray(logits), labels)
