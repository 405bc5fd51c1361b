"""How far two float32 programs that compute the same network may differ: the rounding of their sums, layer by layer.

A sum of K products is rounded K times, each time by at most u = 2**-24 of the partial sum. Such errors have random
signs, so they grow like sqrt(K) (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2): the estimate of
a sum's error is u * sqrt(K) * (|sum| + the root of the sum of the squared terms), which stand for the partial sums.
Variances are added, and passed on through each layer by the squares of its weights. The bound is BOUND_FACTOR
estimates of the difference of two programs, as the tolerances of gpunet's tests are 8 estimates of an error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array, Backend
from gpunet.checks import pair
from gpunet.export.leaves import Leaf
from gpunet.nn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    LeakyReLU,
    Linear,
    MaxPool2d,
)
from gpunet.nn.activation import GELU, Tanh

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32."""

BOUND_FACTOR = 8.0


class ErrorEstimate:
    """Estimates the rounding errors of a network's logits, for inputs on a device.

    Variances below are in units of UNIT squared, and arrays of float32.
    """

    def __init__(self, found: list[Leaf], backend: Backend) -> None:
        self._leaves, self._backend = found, backend
        self._weights = {
            leaf.name: [self._on_device(leaf, part) for part in ("weight", "bias")]
            for leaf in found
            if type(leaf.layer) in (Conv2d, Linear)
        }

    def _on_device(self, leaf: Leaf, part: str) -> Array | None:
        host = leaf.host(part)
        return None if host is None else self._backend.asarray(host, "float32")

    def bounds(self, x: Array, input_errors: Array) -> Array:
        """The bounds of the differences of the logits of `x`, (n, classes), float32 on the host.

        Args:
            input_errors: of the shape of x, in units of UNIT: how far rounding may have moved the inputs.
        """
        with self._backend.active():
            variance = input_errors * input_errors
            for leaf in self._leaves:
                x, variance = self._step(leaf, x, variance)
            return self._backend.to_numpy(BOUND_FACTOR * UNIT * (2.0 * variance) ** 0.5)

    def _step(self, leaf: Leaf, x: Array, variance: Array) -> tuple[Array, Array]:
        """The layer's output for `x`, and the variance of its error."""
        layer: Any = leaf.layer
        if isinstance(layer, (Conv2d, Linear)):
            return self._sums(leaf, x, variance)
        if isinstance(layer, BatchNorm):
            return self._norm(leaf, x, variance)
        if isinstance(layer, Flatten):
            return x.reshape(len(x), -1), variance.reshape(len(x), -1)
        if isinstance(layer, MaxPool2d):
            options: Any = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            passed, _ = ops.max_pool2d(variance, layer.kernel_size, ceil_mode=layer.ceil_mode, **options)
            return self._plain(leaf, x), passed
        if isinstance(layer, (AvgPool2d, GlobalAvgPool2d)):
            y, passed = self._plain(leaf, x), self._plain(leaf, variance)
            terms = math.prod(leaf.input_shape[:2])
            if isinstance(layer, AvgPool2d):
                terms = math.prod(pair("kernel_size", layer.kernel_size))
            square = self._plain(leaf, x * x) / terms  # the sum of the squared terms is this, as each is x / terms
            return y, passed + (terms + 2) * (abs(y) + square**0.5) ** 2
        y = self._plain(leaf, x)
        if isinstance(layer, LeakyReLU):
            return y, variance * max(1.0, layer.slope**2) + y * y
        if isinstance(layer, (Tanh, GELU)):
            # slopes of at most 1.13; libraries' tanh and erf are wrong by a few units of 1
            size = abs(x) + 1.0 if isinstance(layer, GELU) else 1.0
            return y, variance * 1.28 + 64.0 * size * size
        return y, variance  # ReLU and dropout, which is inactive, are exact

    def _plain(self, leaf: Leaf, x: Array) -> Array:
        return leaf.layer(x)

    def _sums(self, leaf: Leaf, x: Array, variance: Array) -> tuple[Array, Array]:
        layer: Any = leaf.layer
        weight, bias = self._weights[leaf.name]
        assert weight is not None

        def product(values: Array, factors: Array, shift: Array | None = None) -> Array:
            if isinstance(layer, Linear):
                return ops.linear(values, factors, shift)
            options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            return ops.conv2d(values, factors, shift, groups=layer.groups, **options)

        terms = math.prod(weight.shape[:-1]) + 3  # and the bias, a rounding of the products, one of the weights
        y = product(x, weight, bias)
        squares = product(x * x, weight * weight, None if bias is None else bias * bias)
        return y, product(variance, weight * weight) + terms * (abs(y) + squares**0.5) ** 2

    def _norm(self, leaf: Leaf, x: Array, variance: Array) -> tuple[Array, Array]:
        """x * scale + (beta - mean * scale), with a scale of a few roundings."""
        layer: Any = leaf.layer
        gamma, beta, mean, spread = (
            self._backend.asarray(np.asarray(leaf.host(part), np.float32))
            for part in ("gamma", "beta", "running_mean", "running_var")
        )
        scale = gamma / (spread + np.float32(layer.eps)) ** 0.5
        y = (x - mean) * scale + beta
        size = abs(x * scale) + abs(mean * scale) + abs(beta)
        return y, variance * scale * scale + 16.0 * size * size


def input_errors(x: Array, offset: Array) -> Array:
    """How far the rounding of x = pixel * scale + offset may have moved `x`, in units of UNIT."""
    found: Array = 2.0 * (abs(x) + 2.0 * abs(offset))
    return found
