"""All activations, each as a call of a module of ops and of PyTorch: a new one is an entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Op:
    forward: Callable[[Any, np.ndarray], np.ndarray]
    backward: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]
    torch: Callable[[Any, Any], Any]
    at_infinity: tuple[float, float]
    """At +inf and -inf; gelu is -inf * 0 there. (PyTorch gives NaN for float32 gelu of inf on some processors.)"""
    steepest: float = 1.2
    """Bound of the derivative: rounding errors of a gradient are measured against it times dy."""


OPS = {
    "relu": Op(lambda m, x: m.relu(x), lambda m, dy, x: m.relu_backward(dy, x), lambda f, x: f.relu(x), (np.inf, 0)),
    "leaky_relu": Op(
        lambda m, x: m.leaky_relu(x, 0.3),
        lambda m, dy, x: m.leaky_relu_backward(dy, x, 0.3),
        lambda f, x: f.leaky_relu(x, 0.3),
        (np.inf, -np.inf),
    ),
    "tanh": Op(lambda m, x: m.tanh(x), lambda m, dy, x: m.tanh_backward(dy, m.tanh(x)), lambda f, x: x.tanh(), (1, -1)),
    "gelu": Op(
        lambda m, x: m.gelu(x), lambda m, dy, x: m.gelu_backward(dy, x), lambda f, x: f.gelu(x), (np.inf, np.nan)
    ),
    "gelu_tanh": Op(
        lambda m, x: m.gelu(x, "tanh"),
        lambda m, dy, x: m.gelu_backward(dy, x, "tanh"),
        lambda f, x: f.gelu(x, approximate="tanh"),
        (np.inf, np.nan),
    ),
}
