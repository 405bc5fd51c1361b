"""A convolution block in inference on the GPU: the launches of its ops, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.backend import Array
from gpunet.ops.activation import cuda as activation
from gpunet.ops.batchnorm import cuda as batchnorm
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.batchnorm_pool import cuda as batchnorm_pool
from gpunet.ops.conv2d import cuda as conv
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry
from gpunet.ops.pool2d import cuda as pool2d


def conv2d_inference(
    x: Array,
    weight: Array,
    bias: Array | None,
    norm: Sequence[Array] | None,
    g: Conv2dGeometry,
    eps: float,
    relu: bool,
    max_pool: bool,
) -> Array:
    y = conv.conv2d(x, weight, bias, g)
    if norm is not None:
        gamma, beta, mean, var = norm
        parameters = BatchNormParameters(gamma, beta, mean, var, False, 0.0, eps)
        if max_pool:
            return batchnorm_pool.batch_norm_max_pool(y, parameters, relu)[0]
        y = batchnorm.batch_norm(y, parameters)[0]
    elif max_pool:
        return pool2d.max_pool2d(y, Pool2dGeometry.of(y.shape, 2), np.dtype(np.uint8), relu=relu)[0]
    return activation.relu(y) if relu else y
