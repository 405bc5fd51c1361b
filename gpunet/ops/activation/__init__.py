"""Element-wise activation functions for arrays of any shape.

Semantics are PyTorch's, including at kinks and for non-finite values: NaN gives NaN.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from gpunet.backend import Array
from gpunet.checks import FLOAT_DTYPES, check_float, check_number, check_shape
from gpunet.errors import ConfigError
from gpunet.ops._dispatch import implementation, ready_on_cpu

__all__ = [
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "tanh",
    "tanh_backward",
]

APPROXIMATIONS = ("none", "tanh")


def _of(x: Array) -> ModuleType:
    """The implementation for `x`, which is checked."""
    if type(x) is np.ndarray and x.dtype in FLOAT_DTYPES:
        found = ready_on_cpu(__name__)  # what most calls ask for, without what only errors need
        if found is not None:
            return found
    check_float(x=x)
    return implementation(__name__, x)


def _of_pair(dy: Array, name: str, array: Array) -> ModuleType:
    """The implementation for `dy` and the `array` of this name, which are checked."""
    if type(dy) is type(array) is np.ndarray and dy.dtype is array.dtype and dy.shape == array.shape:
        found = ready_on_cpu(__name__) if dy.dtype in FLOAT_DTYPES else None
        if found is not None:
            return found
    check_float(**{name: array, "dy": dy})
    check_shape("dy", dy, array.shape)
    return implementation(__name__, dy, array)


def _check_approximate(approximate: str) -> str:
    if approximate not in APPROXIMATIONS:
        raise ConfigError(f'approximate must be "none" or "tanh", got {approximate!r}')
    return approximate


def relu(x: Array) -> Array:
    """``max(x, 0)``, as a new array with the shape and dtype of `x` (float32 or float64).

    Raises:
        DTypeError: `x` is neither float32 nor float64.

    >>> gn.ops.relu(np.float32([-1, 2]))
    array([0., 2.], dtype=float32)
    """
    return _of(x).relu(x)


def relu_backward(dy: Array, x: Array) -> Array:
    """Gradient of :func:`relu`: `dy` where ``x > 0``, else 0. The output of relu may be passed as `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: `dy` and `x` do not fit each other.

    >>> gn.ops.relu_backward(np.float32([5, 7]), np.float32([-1, 2]))
    array([0., 7.], dtype=float32)
    """
    return _of_pair(dy, "x", x).relu_backward(dy, x)


def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    """`x` where ``x > 0``, else ``slope * x`` (Maas, Hannun & Ng 2013), as a new array like `x`.

    Raises:
        DTypeError: `x` is neither float32 nor float64.
        ConfigError: `slope` is not a finite number.

    >>> gn.ops.leaky_relu(np.float32([-1, 2]), slope=0.5)
    array([-0.5,  2. ], dtype=float32)
    """
    return _of(x).leaky_relu(x, check_number("slope", slope))


def leaky_relu_backward(dy: Array, x: Array, slope: float = 0.01) -> Array:
    """Gradient of :func:`leaky_relu`: `dy` where ``x > 0``, else ``slope * dy``.

    If the slope is positive, the output of leaky_relu may be passed as `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: `dy` and `x` do not fit each other.
        ConfigError: `slope` is not a finite number.

    >>> gn.ops.leaky_relu_backward(np.float32([5, 7]), np.float32([-1, 2]), slope=0.5)
    array([2.5, 7. ], dtype=float32)
    """
    return _of_pair(dy, "x", x).leaky_relu_backward(dy, x, check_number("slope", slope))


def tanh(x: Array) -> Array:
    """Hyperbolic tangent, as a new array with the shape and dtype of `x` (float32 or float64).

    Raises:
        DTypeError: `x` is neither float32 nor float64.

    >>> gn.ops.tanh(np.float32([-100, 0, 100]))
    array([-1.,  0.,  1.], dtype=float32)
    """
    return _of(x).tanh(x)


def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient of :func:`tanh` from its output `y`, not its input: ``dy * (1 - y**2)``.

    Raises:
        ShapeError, DTypeError, DeviceError: `dy` and `y` do not fit each other.

    >>> gn.ops.tanh_backward(np.float32([8, 8]), np.float32([0, 0.5]))
    array([8., 6.], dtype=float32)
    """
    return _of_pair(dy, "y", y).tanh_backward(dy, y)


def gelu(x: Array, approximate: str = "none") -> Array:
    """Gaussian error linear unit ``x * Phi(x)``, with Phi the standard normal CDF.

    Hendrycks & Gimpel 2016 (arXiv:1606.08415), section 2. With ``approximate="tanh"``, their
    ``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3)))``.

    Returns: a new array with the shape and dtype of `x` (float32 or float64).

    Raises:
        DTypeError: `x` is neither float32 nor float64.
        ConfigError: `approximate` is neither ``"none"`` nor ``"tanh"``.

    >>> gn.ops.gelu(np.float32([-100, 0, 100]))
    array([ -0.,   0., 100.], dtype=float32)
    """
    return _of(x).gelu(x, _check_approximate(approximate))


def gelu_backward(dy: Array, x: Array, approximate: str = "none") -> Array:
    """Gradient of :func:`gelu` at its input `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: `dy` and `x` do not fit each other.
        ConfigError: `approximate` is neither ``"none"`` nor ``"tanh"``.

    >>> gn.ops.gelu_backward(np.float32([8, 8]), np.float32([0, 100]))  # Phi(0) = 1/2
    array([4., 8.], dtype=float32)
    """
    return _of_pair(dy, "x", x).gelu_backward(dy, x, _check_approximate(approximate))
