"""Batch normalisation and max pooling on the GPU: the launches of one after those of the other."""

from __future__ import annotations

import numpy as np

from gpunet.backend import Array, Gather
from gpunet.ops.batchnorm import cuda as batchnorm
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.geometry import Pool2dGeometry
from gpunet.ops.pool2d import cuda as pool2d


def batch_norm_max_pool(
    x: Array, parameters: BatchNormParameters, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    normalised, mean, inv_std = batchnorm.batch_norm(x, parameters)
    y, argmax = pool2d.max_pool2d(normalised, Pool2dGeometry.of(x.shape, 2), np.dtype(np.uint8), relu=relu)
    return y, mean, inv_std, argmax


def batch_norm_max_pool_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    argmax: Array,
    training: bool,
    gather: Gather | None,
    out: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    dnormalised = pool2d.max_pool2d_backward(dy, argmax, Pool2dGeometry.of(x.shape, 2))
    return batchnorm.batch_norm_backward(dnormalised, x, gamma, mean, inv_std, training, gather, out)
