"""Activation functions, slow and obviously correct: computed in float64, rounded once to the dtype of the input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_CUBIC = 0.044715
_SCALE = math.sqrt(2 / math.pi)


def _each(function: Callable[..., float], *arrays: np.ndarray) -> np.ndarray:
    out = np.empty(arrays[0].shape, np.float64)
    for index in np.ndindex(out.shape):
        out[index] = function(*(float(array[index]) for array in arrays))
    with np.errstate(under="ignore"):
        return out.astype(arrays[0].dtype)


def relu(x: np.ndarray) -> np.ndarray:
    return _each(lambda x: 0.0 if x <= 0 else x, x)


def relu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _each(lambda dy, x: 0.0 if x <= 0 else dy, dy, x)


def leaky_relu(x: np.ndarray, slope: float = 0.01) -> np.ndarray:
    return _each(lambda x: x if x > 0 else slope * x, x)


def leaky_relu_backward(dy: np.ndarray, x: np.ndarray, slope: float = 0.01) -> np.ndarray:
    return _each(lambda dy, x: dy if x > 0 else slope * dy, dy, x)


def tanh(x: np.ndarray) -> np.ndarray:
    return _each(math.tanh, x)


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _each(lambda dy, y: dy * (1 - y * y), dy, y)


def _inner(x: float) -> float:
    return _SCALE * (x + _CUBIC * x * x * x)


def gelu(x: np.ndarray, approximate: str = "none") -> np.ndarray:
    if approximate == "tanh":
        return _each(lambda x: 0.5 * x * (1 + math.tanh(_inner(x))), x)
    return _each(lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)), x)


def gelu_backward(dy: np.ndarray, x: np.ndarray, approximate: str = "none") -> np.ndarray:
    def slope(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2)) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def slope_tanh(x: float) -> float:
        u = _inner(x)
        e = math.exp(-2 * abs(u))
        tanh_slope = 4 * e / (1 + e) ** 2  # 1 - tanh(u)**2 without cancellation
        return 0.5 * (1 + math.tanh(u)) + 0.5 * x * tanh_slope * _SCALE * (1 + 3 * _CUBIC * x * x)

    chosen = slope_tanh if approximate == "tanh" else slope
    return _each(lambda dy, x: dy * chosen(x), dy, x)
