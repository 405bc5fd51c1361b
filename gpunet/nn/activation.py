"""Activation layers, and the registry of their names: :data:`ACTIVATIONS`."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_number
from gpunet.errors import ConfigError
from gpunet.nn.layer import Backward, ForwardContext, Layer

__all__ = ["ACTIVATIONS", "GELU", "Activation", "LeakyReLU", "ReLU", "Tanh", "make_activation"]


class Activation(Layer):
    """Base class of all activations: element-wise functions.

    >>> class Square(gn.nn.Activation):
    ...     def forward(self, x, ctx):
    ...         return x * x, lambda dy: 2 * x * dy
    >>> Square()(np.float32([3]))
    array([9.], dtype=float32)
    """

    elementwise = True
    non_decreasing: bool = False
    """Whether the function is monotonically non-decreasing. A subclass that overrides ``forward`` must restate it."""
    gain: float = 1.0
    """1 / sqrt(E[f(z)^2]) for the function f and a standard normal z, to preserve the second moment across layers."""


class ReLU(Activation):
    """max(x, 0); gain: He et al. 2015, eq. 10.

    >>> gn.nn.ReLU()(np.float32([-1, 2]))
    array([0., 2.], dtype=float32)
    """

    non_decreasing = True
    gain = math.sqrt(2.0)

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        return ops.relu(x), lambda dy: ops.relu_backward(dy, x)


class LeakyReLU(Activation):
    """x where positive, `slope` * x elsewhere (Maas et al., 2013); gain: He et al. 2015, eq. 15.

    >>> gn.nn.LeakyReLU(slope=0.5)(np.float32([-1, 2]))
    array([-0.5,  2. ], dtype=float32)
    """

    def __init__(self, slope: float = 0.01) -> None:
        self._slope = check_number("slope", slope)

    @property
    def slope(self) -> float:
        return self._slope

    @property
    def non_decreasing(self) -> bool:  # type: ignore[override]
        return self.slope >= 0

    @property
    def gain(self) -> float:  # type: ignore[override]
        return math.sqrt(2.0 / (1.0 + self.slope**2))

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        return ops.leaky_relu(x, self.slope), lambda dy: ops.leaky_relu_backward(dy, x, self.slope)


class Tanh(Activation):
    """Hyperbolic tangent; gain as in PyTorch.

    >>> gn.nn.Tanh()(np.float32([-100, 0, 100]))
    array([-1.,  0.,  1.], dtype=float32)
    """

    non_decreasing = True
    gain = 5.0 / 3.0

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y = ops.tanh(x)
        return y, lambda dy: ops.tanh_backward(dy, y)


class GELU(Activation):
    """x * Phi(x) with Phi the standard normal CDF, or its tanh approximation (Hendrycks & Gimpel, 2016).

    E[gelu(z)^2] is 1/3 + 1 / (2 sqrt(3) pi); that of the approximation agrees to three digits.

    >>> gn.nn.GELU()(np.float32([0, 100]))
    array([  0., 100.], dtype=float32)
    """

    gain = 1.0 / math.sqrt(1.0 / 3.0 + 1.0 / (2.0 * math.sqrt(3.0) * math.pi))

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"approximate must be none or tanh, got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y = ops.gelu(x, approximate=self.approximate)
        return y, lambda dy: ops.gelu_backward(dy, x, approximate=self.approximate)


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": Tanh,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
}
"""Factories of the layers by name. Options, messages and models take their choices from here."""


def make_activation(name: str) -> Activation:
    """A new activation layer, by its name in :data:`ACTIVATIONS`.

    Raises:
        ConfigError: unknown name; the message lists the valid ones.

    >>> gn.nn.make_activation("relu")(np.float32([-1, 2]))
    array([0., 2.], dtype=float32)
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def never_decreases(layer: Layer) -> bool:
    """Whether `layer` is a non-decreasing activation, as declared by the class that defines its ``forward``."""
    owner = next(found for found in type(layer).__mro__ if "forward" in vars(found))
    return isinstance(layer, Activation) and "non_decreasing" in vars(owner) and layer.non_decreasing
