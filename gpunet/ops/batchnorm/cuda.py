"""Batch normalisation on the GPU: three launches of ``kernels/batchnorm.cu`` each way, two forward in inference.

For one of several parts of a batch there is another one before they meet, and backward one more after that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpunet import cuda
from gpunet.backend import Array, Gather
from gpunet.ops.batchnorm.parameters import BatchNormParameters

_THREADS = 256
_BLOCKS = 1024
"""Rows are cut into slices for at most about so many blocks: several for each multiprocessor of a large GPU."""
_FINISH_BLOCK = 4, 64  # channels, threads that stride over slices


class _Slicing(NamedTuple):
    """How the rows of a (rows, channels) matrix are cut into slices, by its shape alone."""

    rows: int
    channels: int
    slice_rows: int
    slices: int
    grid: int
    block: tuple[int, int]


def _slicing(shape: Sequence[int]) -> _Slicing:
    rows, channels = math.prod(shape[:-1]), shape[-1]
    vectors = cuda.ceil_div(channels, 4)
    width = min(8, 1 << (vectors - 1).bit_length())
    tiles, height = cuda.ceil_div(vectors, width), _THREADS // width
    in_flight = 4 * height  # rows that a block loads at a time
    slice_rows = in_flight * cuda.ceil_div(rows, in_flight * max(1, _BLOCKS // tiles))
    slices = cuda.ceil_div(rows, slice_rows)
    return _Slicing(rows, channels, slice_rows, slices, slices * tiles, (width, height))


def batch_norm(x: Array, parameters: BatchNormParameters) -> tuple[Array, Array, Array]:
    gamma, beta, running_mean, running_var, training, momentum, eps, gather = parameters
    x, gamma, beta = cuda.contiguous(x), cuda.contiguous(gamma), cuda.contiguous(beta)
    moving = cuda.contiguous(running_mean), cuda.contiguous(running_var)
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    slicing = _slicing(x.shape)
    size = slicing.rows, slicing.channels, slicing.slice_rows
    mean, inv_std = (cuda.empty(slicing.channels, np.float64, x) for _ in range(2))
    coefficients, y = cuda.empty((3, slicing.channels), x.dtype, x), cuda.empty_like(x)
    results = mean, inv_std, coefficients
    if training:
        means, squares = (cuda.empty((slicing.slices, slicing.channels), np.float64, x) for _ in range(2))
        launch("partial_statistics", slicing.grid, slicing.block, x, means, squares, *size)
        grid = cuda.ceil_div(slicing.channels, _FINISH_BLOCK[0])
        combined = *size, slicing.slices
        if gather is not None:
            part = cuda.empty((2, slicing.channels), np.float64, x)
            launch("part_statistics", grid, _FINISH_BLOCK, means, squares, part, *combined)
            means, squares = _of_parts(gather(part))
            combined = slicing.rows * len(means), slicing.channels, slicing.rows, len(means)
        args = means, squares, gamma, beta, *moving, *results, *combined, momentum, eps
        launch("finish_statistics", grid, _FINISH_BLOCK, *args)
        for running, moved in zip((running_mean, running_var), moving, strict=True):
            if moved is not running:  # a copy, because `running` is not contiguous
                cuda.cuda_backend_of(running).assign(running, moved)
    else:
        grid = cuda.ceil_div(slicing.channels, _THREADS)
        launch("running_statistics", grid, _THREADS, gamma, beta, *moving, *results, slicing.channels, eps)
    launch("apply_statistics", slicing.grid, slicing.block, x, coefficients, y, *size)
    return y, mean, inv_std


def _of_parts(found: Array) -> tuple[Array, Array]:
    """The two arrays (S, C) of what `gather` returns, (S, 2, C)."""
    return cuda.contiguous(found[:, 0]), cuda.contiguous(found[:, 1])


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    training: bool,
    gather: Gather | None,
    out: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    dy, x, gamma = cuda.contiguous(dy), cuda.contiguous(x), cuda.contiguous(gamma)
    mean, inv_std = cuda.contiguous(mean), cuda.contiguous(inv_std)
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    slicing = _slicing(x.shape)
    size = slicing.rows, slicing.channels, slicing.slice_rows
    dgamma, dbeta = (cuda.empty(slicing.channels, x.dtype, x) if array is None else array for array in out)
    coefficients, dx = cuda.empty((4, slicing.channels), x.dtype, x), cuda.empty_like(x)
    sums, products = (cuda.empty((slicing.slices, slicing.channels), np.float64, x) for _ in range(2))
    launch("partial_gradients", slicing.grid, slicing.block, dy, x, mean, sums, products, *size)
    grid = cuda.ceil_div(slicing.channels, _FINISH_BLOCK[0])
    layer, combined = (gamma, mean, inv_std), (slicing.rows, slicing.channels, slicing.slices)
    launch("finish_gradients", grid, _FINISH_BLOCK, sums, products, *layer, dgamma, dbeta, coefficients, *combined)
    if training and gather is not None:
        part = cuda.empty((2, slicing.channels), np.float64, x)
        unused = cuda.empty((2, slicing.channels), x.dtype, x)
        launch("part_gradients", grid, _FINISH_BLOCK, sums, products, part, *combined[1:])
        sums, products = _of_parts(gather(part))
        combined = slicing.rows * len(sums), slicing.channels, len(sums)
        launch("finish_gradients", grid, _FINISH_BLOCK, sums, products, *layer, *unused, coefficients, *combined)
    launch("apply_gradients", slicing.grid, slicing.block, dy, x, coefficients, dx, *size, training)
    return dx, dgamma, dbeta
