"""Batch normalisation on the GPU: three launches of ``kernels/batchnorm.cu`` each way, two forward in inference.

For one of several parts of a batch there is another one before they meet, and backward one more after that. The op that
fuses it with pooling shares what leads to the coefficients of a channel.
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
_BLOCKS = 528
"""Rows are cut into slices for at most about so many blocks: four for each multiprocessor of an H100 or H200, which
holds them all at once (``RESIDENT`` in ``kernels/batchnorm.cuh``)."""
_ROWS_IN_FLIGHT = 4
_FINISH_CHANNELS, _FINISH_THREADS = 4, 256
"""What a block that combines slices works on, and at most so many threads for each channel."""


class Slicing(NamedTuple):
    """How the rows of a (rows, channels) matrix are cut into slices, by its shape alone."""

    rows: int
    channels: int
    slice_rows: int
    slices: int
    grid: tuple[int, int]
    block: tuple[int, int]

    @property
    def size(self) -> tuple[int, int, int]:
        """As the kernels take it."""
        return self.rows, self.channels, self.slice_rows


def slicing(shape: Sequence[int], rows_in_flight: int = _ROWS_IN_FLIGHT) -> Slicing:
    """`rows_in_flight`: rows that a thread loads at a time."""
    rows, channels = math.prod(shape[:-1]), shape[-1]
    vectors = cuda.ceil_div(channels, 4)
    width = min(8, 1 << (vectors - 1).bit_length())
    tiles, height = cuda.ceil_div(vectors, width), _THREADS // width
    in_flight = rows_in_flight * height  # rows that a block loads at a time
    slice_rows = in_flight * cuda.ceil_div(rows, in_flight * max(1, _BLOCKS // tiles))
    slices = cuda.ceil_div(rows, slice_rows)
    return Slicing(rows, channels, slice_rows, slices, (tiles, slices), (width, height))


def partial_results(cut: Slicing, like: Array) -> tuple[Array, Array]:
    """Two arrays for what the slices give, float64 (slices, channels)."""
    first, second = (cuda.empty((cut.slices, cut.channels), np.float64, like) for _ in range(2))
    return first, second


def _finish(channels: int, slices: int) -> tuple[int, tuple[int, int]]:
    """Grid and block of a kernel that combines slices: a thread for each, up to a number; whole warps."""
    threads = 1 << (slices - 1).bit_length()
    return cuda.ceil_div(channels, _FINISH_CHANNELS), (_FINISH_CHANNELS, min(max(threads, 8), _FINISH_THREADS))


def normalisation(x: Array, parameters: BatchNormParameters) -> tuple[Array, Array, Array]:
    """(mean, inv_std, coefficients) of a contiguous `x`: the last as the kernels take them, (3, channels).

    In training, moves the running statistics.
    """
    gamma, beta, running_mean, running_var, training, momentum, eps, gather = parameters
    gamma, beta = cuda.contiguous(gamma), cuda.contiguous(beta)
    moving = cuda.contiguous(running_mean), cuda.contiguous(running_var)
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    channels = x.shape[-1]
    mean, inv_std = (cuda.empty(channels, np.float64, x) for _ in range(2))
    results = mean, inv_std, cuda.empty((3, channels), x.dtype, x)
    if not training:
        grid = cuda.ceil_div(channels, _THREADS)
        launch("running_statistics", grid, _THREADS, gamma, beta, *moving, *results, channels, eps)
        return results
    cut = slicing(x.shape)
    means, squares = partial_results(cut, x)
    launch("partial_statistics", cut.grid, cut.block, x, means, squares, *cut.size)
    combined = *cut.size, cut.slices
    if gather is not None:
        part = cuda.empty((2, channels), np.float64, x)
        launch("part_statistics", *_finish(channels, cut.slices), means, squares, part, *combined)
        means, squares = _of_parts(gather(part))
        combined = cut.rows * len(means), channels, cut.rows, len(means)
    args = means, squares, gamma, beta, *moving, *results, *combined, momentum, eps
    launch("finish_statistics", *_finish(channels, len(means)), *args)
    for running, moved in zip((running_mean, running_var), moving, strict=True):
        if moved is not running:  # a copy, because `running` is not contiguous
            cuda.cuda_backend_of(running).assign(running, moved)
    return results


def batch_norm(x: Array, parameters: BatchNormParameters) -> tuple[Array, Array, Array]:
    x = cuda.contiguous(x)
    mean, inv_std, coefficients = normalisation(x, parameters)
    cut, y = slicing(x.shape), cuda.empty_like(x)
    cuda.launch("batchnorm", "apply_statistics", cut.grid, cut.block, x, coefficients, y, *cut.size, real=x.dtype)
    return y, mean, inv_std


def _of_parts(found: Array) -> tuple[Array, Array]:
    """The two arrays (S, C) of what `gather` returns, (S, 2, C)."""
    return cuda.contiguous(found[:, 0]), cuda.contiguous(found[:, 1])


def gradient_coefficients(
    sums: Array,
    products: Array,
    rows: int,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    training: bool,
    gather: Gather | None,
    out: tuple[Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    """(coefficients, dgamma, dbeta): the first as the kernels take them, (4, channels).

    `sums`, `products`: those of dy and of dy * (x - mean) over each slice of `rows` rows in all. `mean` and `inv_std`
    are contiguous.
    """
    gamma, (slices, channels) = cuda.contiguous(gamma), sums.shape
    launch = functools.partial(cuda.launch, "batchnorm", real=gamma.dtype)
    dgamma, dbeta = (cuda.empty(channels, gamma.dtype, gamma) if array is None else array for array in out)
    layer, coefficients = (gamma, mean, inv_std), cuda.empty((4, channels), gamma.dtype, gamma)
    results, size = (dgamma, dbeta, coefficients), (rows, channels, slices)
    launch("finish_gradients", *_finish(channels, slices), sums, products, *layer, *results, *size)
    if training and gather is not None:
        part = cuda.empty((2, channels), np.float64, gamma)
        launch("part_gradients", *_finish(channels, slices), sums, products, part, channels, slices)
        sums, products = _of_parts(gather(part))
        parts = len(sums)
        results = *cuda.empty((2, channels), gamma.dtype, gamma), coefficients  # the first two are not used
        size = rows * parts, channels, parts
        launch("finish_gradients", *_finish(channels, parts), sums, products, *layer, *results, *size)
    return coefficients, dgamma, dbeta


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
    dy, x, mean, inv_std = map(cuda.contiguous, (dy, x, mean, inv_std))
    launch = functools.partial(cuda.launch, "batchnorm", real=x.dtype)
    cut, dx = slicing(x.shape), cuda.empty_like(x)
    sums, products = partial_results(cut, x)
    launch("partial_gradients", cut.grid, cut.block, dy, x, mean, sums, products, *cut.size)
    coefficients, dgamma, dbeta = gradient_coefficients(
        sums, products, cut.rows, gamma, mean, inv_std, training, gather, out
    )
    launch("apply_gradients", cut.grid, cut.block, dy, x, coefficients, dx, *cut.size, training)
    return dx, dgamma, dbeta
