"""Softmax and cross-entropy by definition, row by row, in float64."""

from __future__ import annotations

import math

import numpy as np


def log_softmax(x: np.ndarray) -> np.ndarray:
    out = np.empty(x.shape, np.float64)
    for index in np.ndindex(x.shape[:-1]):
        row = [float(value) for value in x[index]]
        if any(math.isnan(value) for value in row):
            out[index] = math.nan
            continue
        largest = max(row)
        log_sum = math.log(math.fsum(math.exp(value - largest) for value in row))
        out[index] = [value - largest - log_sum for value in row]
    return out.astype(x.dtype)


def softmax(x: np.ndarray) -> np.ndarray:
    with np.errstate(under="ignore"):
        out: np.ndarray = np.exp(log_softmax(x.astype(np.float64))).astype(x.dtype)
    return out


def softmax_cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    label_smoothing: float = 0.0,
    weight: np.ndarray | None = None,
    sample_weight: np.ndarray | None = None,
    gamma: float = 0.0,
    reduction: str = "mean",
) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = logits.shape
    weights = np.ones(classes) if weight is None else weight.astype(np.float64)
    of_rows = np.ones(rows) if sample_weight is None else sample_weight.astype(np.float64)
    log_p = log_softmax(logits.astype(np.float64))
    losses, gradient = np.zeros(rows), np.zeros((rows, classes))
    for row in range(rows):
        target = [
            (1 - label_smoothing) * weights[c] * (c == labels[row]) + label_smoothing / classes * weights[c]
            for c in range(classes)
        ]
        losses[row] = math.fsum(-target[c] * log_p[row, c] for c in range(classes) if target[c] != 0)
        for c in range(classes):
            gradient[row, c] = math.exp(log_p[row, c]) * math.fsum(target) - target[c]
        log_own = log_p[row, int(labels[row])]
        p, rest = math.exp(log_own), -math.expm1(log_own)
        losses[row] *= of_rows[row] * rest**gamma
        slope = rest**gamma - gamma * p * rest ** (gamma - 1) * log_own if gamma and rest and p else rest**gamma
        gradient[row] *= of_rows[row] * slope
    if reduction == "none":
        return losses.astype(logits.dtype), gradient.astype(logits.dtype)
    products = (weights[label] * factor for label, factor in zip(labels, of_rows, strict=True))
    divisor = math.fsum(products) if reduction == "mean" else 1.0
    return np.array(math.fsum(losses) / divisor, logits.dtype), (gradient / divisor).astype(logits.dtype)


def count_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    count = 0
    for row, label in zip(logits, labels, strict=True):
        values = [float(value) for value in row]
        if not any(math.isnan(value) for value in values):
            count += values.index(max(values)) == int(label)
    return np.array(count, np.int64)
