"""Optimiser updates, element by element in float64 as in the papers, rounded once when stored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def _number(value: Any) -> float:
    return float(value.item()) if hasattr(value, "item") else float(value)


def _scale(scale: Any) -> float:
    return 1.0 if scale is None else _number(scale)


def gradient_scale(grads: np.ndarray, loss: np.ndarray, *, max_norm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    scale, norm = 1.0, 0.0
    if max_norm:
        norm = math.sqrt(math.fsum(float(g) ** 2 for g in grads))
        scale = min(1.0, max_norm / (norm + 1e-6))
    if not math.isfinite(_number(loss)) or not math.isfinite(norm):
        scale = math.nan
    return np.array(scale, grads.dtype), np.array(norm, grads.dtype)


def sgd_update(
    params: np.ndarray,
    grads: np.ndarray,
    velocity: np.ndarray | None,
    *,
    lr: Any,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_size: int | None = None,
    scale: Any = None,
) -> None:
    if not math.isfinite(_scale(scale)):
        return
    for i in range(params.size):
        g = float(grads[i]) * _scale(scale)
        if decay_size is None or i < decay_size:
            g += weight_decay * float(params[i])
        if momentum:
            assert velocity is not None
            v = momentum * float(velocity[i]) + g
            velocity[i] = v
            g = g + momentum * v if nesterov else v
        params[i] = float(params[i]) - _number(lr) * g


def adam_update(
    params: np.ndarray,
    grads: np.ndarray,
    moment1: np.ndarray,
    moment2: np.ndarray,
    *,
    lr: Any,
    step: Any,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_size: int | None = None,
    scale: Any = None,
) -> None:
    if not math.isfinite(_scale(scale)):
        return
    lr, t = _number(lr), _number(step)
    for i in range(params.size):
        p, g = float(params[i]), float(grads[i]) * _scale(scale)
        if decay_size is None or i < decay_size:
            if decoupled:
                p -= lr * weight_decay * p
            else:
                g += weight_decay * p
        m = beta1 * float(moment1[i]) + (1 - beta1) * g
        v = beta2 * float(moment2[i]) + (1 - beta2) * g * g
        moment1[i], moment2[i] = m, v
        params[i] = p - lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)


def ema_update(average: np.ndarray, values: np.ndarray, *, decay: float, step: Any = None) -> None:
    if step is not None:
        decay = min(decay, (1 + _number(step)) / (10 + _number(step)))
    for i in range(average.size):
        average[i] = decay * float(average[i]) + (1 - decay) * float(values[i])
