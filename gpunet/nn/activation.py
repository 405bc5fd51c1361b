"""Activation layers."""

from __future__ import annotations

from collections.abc import Callable

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_number
from gpunet.errors import ConfigError
from gpunet.nn.layer import Backward, ForwardContext, Layer


class ReLU(Layer):
    """max(x, 0)."""

    elementwise = True

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        return ops.relu(x), lambda dy: ops.relu_backward(dy, x)


class LeakyReLU(Layer):
    """x where positive, `slope` * x elsewhere (Maas et al., 2013)."""

    elementwise = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = check_number("slope", slope)

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        return ops.leaky_relu(x, self.slope), lambda dy: ops.leaky_relu_backward(dy, x, self.slope)


class Tanh(Layer):
    """Hyperbolic tangent."""

    elementwise = True

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y = ops.tanh(x)
        return y, lambda dy: ops.tanh_backward(dy, y)


class GELU(Layer):
    """x * Phi(x) with the normal distribution's Phi, or its tanh approximation (Hendrycks & Gimpel, 2016)."""

    elementwise = True

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"approximate must be none or tanh, got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y = ops.gelu(x, approximate=self.approximate)
        return y, lambda dy: ops.gelu_backward(dy, x, approximate=self.approximate)


_BY_NAME: dict[str, Callable[[], Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": Tanh,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
}


def activation(name: str) -> Layer:
    """A new activation layer: ``relu``, ``leaky_relu``, ``tanh``, ``gelu`` or ``gelu_tanh``; else ConfigError."""
    if name not in _BY_NAME:
        raise ConfigError(f"unknown activation {name!r}: expected one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]()
