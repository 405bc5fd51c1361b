"""Batch normalisation and max pooling on the GPU: ``kernels/batchnorm_pool.cu``, between launches of batch norm.

Forward, one launch after those that lead to a channel's coefficients; backward, one before and one after them.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from gpunet import cuda
from gpunet.backend import Array
from gpunet.ops.batchnorm import cuda as batchnorm
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.batchnorm_pool import BatchNormMaxPoolSaved
from gpunet.ops.geometry import Pool2dGeometry

_THREADS = 256


def _grid(batch: int, rows: int, columns: int, channels: int) -> int:
    """Blocks with a thread for up to four channels of each window."""
    return cuda.ceil_div(batch * rows * columns * cuda.ceil_div(channels, 4), _THREADS)


def batch_norm_max_pool(
    x: Array, parameters: BatchNormParameters, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    x, y_shape = cuda.contiguous(x), Pool2dGeometry.of(x.shape, 2).y_shape
    mean, inv_std, coefficients = batchnorm.normalisation(x, parameters)
    y, argmax = cuda.empty(y_shape, x.dtype, x), cuda.empty(y_shape, np.uint8, x)
    args = x, coefficients, y, argmax, *x.shape, relu
    cuda.launch("batchnorm_pool", "normalise_and_pool", _grid(*y_shape), _THREADS, *args, real=x.dtype)
    return y, mean, inv_std, argmax


def batch_norm_max_pool_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    saved: BatchNormMaxPoolSaved,
    out: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    dy, x, argmax, mean, inv_std = map(cuda.contiguous, (dy, x, saved.argmax, saved.mean, saved.inv_std))
    launch = functools.partial(cuda.launch, "batchnorm_pool", real=x.dtype)
    batch, height, width, channels = x.shape
    cut, dx = batchnorm.slicing(dy.shape, rows_in_flight=1), cuda.empty_like(x)
    sums, products = batchnorm.partial_results(cut, x)
    size = cut.rows, height, width, channels, cut.slice_rows
    launch("partial_pooled_gradients", cut.grid, cut.block, dy, x, argmax, mean, sums, products, *size)
    coefficients, dgamma, dbeta = batchnorm.gradient_coefficients(
        sums, products, math.prod(x.shape[:3]), gamma, mean, inv_std, saved.training, saved.gather, out
    )
    grid = _grid(batch, cuda.ceil_div(height, 2), cuda.ceil_div(width, 2), channels)  # halves at odd edges included
    launch("apply_pooled_gradients", grid, _THREADS, dy, x, argmax, coefficients, dx, *x.shape, saved.training)
    return dx, dgamma, dbeta
