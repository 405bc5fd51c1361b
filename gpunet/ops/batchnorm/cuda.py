"""Batch normalisation on the GPU: three launches of ``kernels/batchnorm.cu`` each way, two forward in inference."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpunet import cuda
from gpunet.backend import Array
from gpunet.ops.batchnorm.parameters import BatchNormParameters

_THREADS = 256
_BLOCKS = 1024
"""Rows are cut into pieces for at most about so many blocks: several for each multiprocessor of a large GPU."""
_FINISH_BLOCK = 4, 64  # channels, lanes of pieces


class _Cut(NamedTuple):
    """How a (rows, channels) matrix is cut, by its shape alone."""

    rows: int
    channels: int
    piece_rows: int
    pieces: int
    grid: int
    block: tuple[int, int]


def _cut(shape: Sequence[int]) -> _Cut:
    rows, channels = math.prod(shape[:-1]), shape[-1]
    quads = cuda.ceil_div(channels, 4)
    side = min(8, 1 << (quads - 1).bit_length())
    tiles, lanes = cuda.ceil_div(quads, side), _THREADS // side
    under_way = 4 * lanes  # rows that a block loads at a time
    piece_rows = under_way * cuda.ceil_div(rows, under_way * max(1, _BLOCKS // tiles))
    pieces = cuda.ceil_div(rows, piece_rows)
    return _Cut(rows, channels, piece_rows, pieces, pieces * tiles, (side, lanes))


def batch_norm(x: Array, parameters: BatchNormParameters) -> tuple[Array, Array, Array]:
    gamma, beta, running_mean, running_var, training, momentum, eps = parameters
    x, gamma, beta = cuda.contiguous(x), cuda.contiguous(gamma), cuda.contiguous(beta)
    moving = cuda.contiguous(running_mean), cuda.contiguous(running_var)
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    cut = _cut(x.shape)
    size = cut.rows, cut.channels, cut.piece_rows
    mean, inv_std = (cuda.empty(cut.channels, np.float64, x) for _ in range(2))
    coefficients, y = cuda.empty((3, cut.channels), x.dtype, x), cuda.empty_like(x)
    results = mean, inv_std, coefficients
    if training:
        means, squares = (cuda.empty((cut.pieces, cut.channels), np.float64, x) for _ in range(2))
        launch("piece_statistics", cut.grid, cut.block, x, means, squares, *size)
        grid = cuda.ceil_div(cut.channels, _FINISH_BLOCK[0])
        args = means, squares, gamma, beta, *moving, *results, *size, cut.pieces, momentum, eps
        launch("finish_statistics", grid, _FINISH_BLOCK, *args)
        for running, moved in zip((running_mean, running_var), moving, strict=True):
            if moved is not running:  # a copy, because `running` is not contiguous
                running[...] = moved
    else:
        grid = cuda.ceil_div(cut.channels, _THREADS)
        launch("running_statistics", grid, _THREADS, gamma, beta, *moving, *results, cut.channels, eps)
    launch("apply_statistics", cut.grid, cut.block, x, coefficients, y, *size)
    return y, mean, inv_std


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    training: bool,
    out: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    dy, x, gamma = cuda.contiguous(dy), cuda.contiguous(x), cuda.contiguous(gamma)
    mean, inv_std = cuda.contiguous(mean), cuda.contiguous(inv_std)
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    cut = _cut(x.shape)
    size = cut.rows, cut.channels, cut.piece_rows
    dgamma, dbeta = (cuda.empty(cut.channels, x.dtype, x) if array is None else array for array in out)
    coefficients, dx = cuda.empty((4, cut.channels), x.dtype, x), cuda.empty_like(x)
    sums, products = (cuda.empty((cut.pieces, cut.channels), np.float64, x) for _ in range(2))
    launch("piece_gradients", cut.grid, cut.block, dy, x, mean, sums, products, *size)
    grid = cuda.ceil_div(cut.channels, _FINISH_BLOCK[0])
    args = sums, products, gamma, mean, inv_std, dgamma, dbeta, coefficients, cut.rows, cut.channels, cut.pieces
    launch("finish_gradients", grid, _FINISH_BLOCK, *args)
    launch("apply_gradients", cut.grid, cut.block, dy, x, coefficients, dx, *size, training)
    return dx, dgamma, dbeta
