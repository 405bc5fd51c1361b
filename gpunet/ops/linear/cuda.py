"""The linear layer on the GPU: the convolution of maps of one pixel with a kernel of one tap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpunet import cuda
from gpunet.backend import Array
from gpunet.ops.activation import cuda as activation
from gpunet.ops.conv2d import cuda as convolution
from gpunet.ops.geometry import Conv2dGeometry


def _geometry(x: Array, weight: Array) -> Conv2dGeometry:
    rows, (inputs, outputs) = math.prod(x.shape[:-1]), weight.shape
    return Conv2dGeometry.of((rows, 1, 1, inputs), (1, 1, inputs, outputs))


def linear(x: Array, weight: Array, bias: Array | None, relu: bool) -> Array:
    g = _geometry(x, weight)
    y = convolution.conv2d(cuda.contiguous(x).reshape(g.x_shape), _kernel(weight, g), bias, g)
    y = y.reshape(*x.shape[:-1], weight.shape[1])
    return activation.relu(y) if relu else y


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    y: Array | None,
    needs: Sequence[str],
    out: tuple[Array | None, Array | None],
) -> tuple[Array | None, Array | None, Array | None]:
    if y is not None:
        dy = activation.relu_backward(dy, y)
    g = _geometry(x, weight)
    maps, dmaps = cuda.contiguous(x).reshape(g.x_shape), cuda.contiguous(dy).reshape(g.y_shape)
    dx = dweight = dbias = None
    if "x" in needs:
        dx = convolution.conv2d_backward_x(dmaps, _kernel(weight, g), g).reshape(x.shape)
    if "weight" in needs:
        target = None if out[0] is None else out[0].reshape(g.weight_shape)
        dweight = convolution.conv2d_backward_weight(dmaps, maps, g, target)
        dweight = dweight.reshape(weight.shape) if out[0] is None else out[0]
    if "bias" in needs:
        dbias = convolution.conv2d_backward_bias(dmaps, out[1])
    return dx, dweight, dbias


def _kernel(weight: Array, g: Conv2dGeometry) -> Array:
    return cuda.contiguous(weight).reshape(g.weight_shape)
