"""Batch normalisation on the CPU: one pass over x for the statistics and one to apply them, forward and backward.

The reductions work on chunks ("pieces") of rows whose size depends only on the shape. A chunk fits in the L1 cache and
is short enough for float32 sums (four rows at a time); the partial results are combined in float64, in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.backend import Gather
from gpunet.ops._columns import sum_deviations, sum_products
from gpunet.ops._elementwise import Operands, elementwise, is_streamed
from gpunet.ops._numba import jit, prange
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.recording import run


def _piece_rows(channels: int) -> int:
    return min(max(8192 // channels, 16), 256)


@jit
def _piece_statistics(x: Any, piece_rows: int, means: Any, squares: Any) -> None:
    """Mean of each piece, and its sum of squared deviations from that mean.

    One pass suffices because deviations are taken from the first row of the piece, which is within sqrt(rows) standard
    deviations of the piece's mean, whatever the data, and usually within one.
    """
    rows, channels = x.shape
    flat = x.reshape(-1)
    first, second = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for piece in prange(means.shape[0]):
        start, end = piece * piece_rows, min(rows, (piece + 1) * piece_rows)
        sum_deviations(flat, start * channels, channels, end - start, channels, first, second, 0)
        for c in range(channels):
            offset = np.float64(first[c]) / (end - start)
            means[piece, c] = x[start, c] + offset
            squares[piece, c] = second[c] - offset * first[c]


@jit
def _combine_statistics(means: Any, squares: Any, rows: int, piece_rows: int, mean: Any, var: Any) -> None:
    """Mean and biased variance of all rows (Chan, Golub & LeVeque, 1983, with the mean computed first)."""
    pieces, channels = means.shape
    for c in range(channels):
        mean[c] = 0
        var[c] = 0
    for piece in range(pieces):
        share = (min(rows, (piece + 1) * piece_rows) - piece * piece_rows) / rows
        for c in range(channels):
            mean[c] += share * means[piece, c]
    for piece in range(pieces):
        share = (min(rows, (piece + 1) * piece_rows) - piece * piece_rows) / rows
        for c in range(channels):
            d = means[piece, c] - mean[c]
            var[c] += squares[piece, c] / rows + share * (d * d)


@jit
def _move_running(running: Any, momentum: float, batch: Any, correction: float) -> None:
    for c in range(running.size):
        running[c] = (1 - momentum) * running[c] + momentum * (batch[c] * correction)


@jit
def _coefficients(mean: Any, var: Any, eps: float, gamma: Any, beta: Any, inv_std: Any, coefficients: Any) -> None:
    """`inv_std`, and (shift, scale, offset) so that y = (x - shift) * scale + offset.

    x - shift is exact where it matters; the rounding error of the mean in x's dtype is added to the offset.
    """
    for c in range(mean.size):
        inv_std[c] = 1 / np.sqrt(var[c] + eps)
        coefficients[0, c] = mean[c]
        coefficients[1, c] = gamma[c] * inv_std[c]
        coefficients[2, c] = beta[c] - (mean[c] - coefficients[0, c]) * gamma[c] * inv_std[c]


@jit
def _affine(mean: Any, var: Any, eps: float, gamma: Any, beta: Any, inv_std: Any, scale: Any, offset: Any) -> None:
    """`inv_std`, and y = x * scale + offset, all in float64."""
    for c in range(mean.size):
        inv_std[c] = 1 / np.sqrt(var[c] + eps)
        scale[c] = gamma[c] * inv_std[c]
        offset[c] = beta[c] - mean[c] * scale[c]


def _normalised(of: Operands) -> Any:
    scaled = of.builder.fmul(of.builder.fsub(of.a, of.factors(0)), of.factors(1))
    return of.builder.fadd(scaled, of.factors(2))


def _gradient(of: Operands) -> Any:
    """Of a, dy, and b, x."""
    centred = of.builder.fsub(of.b, of.factors(0))
    through = of.builder.fadd(of.builder.fmul(of.a, of.factors(1)), of.factors(2))
    return of.builder.fadd(through, of.builder.fmul(centred, of.factors(3)))


def _fixed_gradient(of: Operands) -> Any:
    """Likewise, of statistics that are not the batch's."""
    return of.builder.fmul(of.a, of.factors(1))


_normalised_rows, _gradient_rows = elementwise(_normalised), elementwise(_gradient)
_fixed_gradient_rows = elementwise(_fixed_gradient)


@jit
def _apply(x: Any, piece_rows: int, y: Any, coefficients: Any) -> None:
    rows, channels = x.shape
    flat_x, flat_y, factors, streamed = x.reshape(-1), y.reshape(-1), coefficients.reshape(-1), is_streamed(y, channels)
    for piece in prange((rows + piece_rows - 1) // piece_rows):
        first = piece * piece_rows
        size = first * channels, min(piece_rows, rows - first), channels
        _normalised_rows(flat_x, flat_x, factors, flat_y, *size, streamed)


@jit
def _piece_gradients(dy: Any, x: Any, piece_rows: int, mean: Any, sums: Any, products: Any) -> None:
    """Sums over each piece of dy and of dy * (x - shift), where shift is the mean rounded to x's dtype."""
    rows, channels = x.shape
    flat_dy, flat_x = dy.reshape(-1), x.reshape(-1)
    shift, first, second = np.empty(channels, x.dtype), np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for c in range(channels):
        shift[c] = mean[c]
    for piece in prange(sums.shape[0]):
        start, end = piece * piece_rows, min(rows, (piece + 1) * piece_rows)
        sum_products(flat_dy, flat_x, start * channels, channels, end - start, channels, shift, first, second, 0)
        for c in range(channels):
            sums[piece, c] = first[c]
            products[piece, c] = second[c]


@jit
def _combine_gradients(
    sums: Any, products: Any, rows: int, saved: Any, gamma: Any, training: bool, dgamma: Any, dbeta: Any, out: Any
) -> None:
    """`dgamma`, `dbeta`, and in `out` (shift, scale, offset, slope): dx = dy * scale + offset + (x - shift) * slope."""
    mean, inv_std = saved
    pieces, channels = sums.shape
    total, product = np.zeros(channels), np.zeros(channels)
    for piece in range(pieces):
        for c in range(channels):
            total[c] += sums[piece, c]
            product[c] += products[piece, c]
    for c in range(channels):
        out[0, c] = mean[c]
        lost = mean[c] - out[0, c]
        product[c] = (product[c] - lost * total[c]) * inv_std[c]
        scale = gamma[c] * inv_std[c]
        slope = -scale * inv_std[c] * product[c] / rows if training else 0.0
        out[1, c] = scale
        out[2, c] = -scale * total[c] / rows - lost * slope if training else 0.0
        out[3, c] = slope
        dgamma[c] = product[c]
        dbeta[c] = total[c]


@jit
def _apply_gradients(dy: Any, x: Any, piece_rows: int, dx: Any, coefficients: Any, training: bool) -> None:
    rows, channels = x.shape
    flat_dy, flat_x, flat_dx, factors = dy.reshape(-1), x.reshape(-1), dx.reshape(-1), coefficients.reshape(-1)
    streamed = is_streamed(dx, channels)
    for piece in prange((rows + piece_rows - 1) // piece_rows):
        first = piece * piece_rows
        size = first * channels, min(piece_rows, rows - first), channels
        if training:
            _gradient_rows(flat_dy, flat_x, factors, flat_dx, *size, streamed)
        else:
            _fixed_gradient_rows(flat_dy, flat_x, factors, flat_dx, *size, streamed)


def _matrix(x: np.ndarray) -> np.ndarray:
    return contiguous(x).reshape(-1, x.shape[-1])


def normalisation(matrix: np.ndarray, parameters: BatchNormParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mean` and `inv_std` for the rows of `matrix`, and (shift, scale, offset): y = (x - shift) * scale + offset.

    In training, the running statistics are updated.
    """
    gamma, beta, running_mean, running_var, training, _, eps, _ = parameters
    rows, channels = matrix.shape
    mean, var = np.empty((2, channels))
    if training:
        piece_rows = _piece_rows(channels)
        means, squares = np.empty((2, -(-rows // piece_rows), channels))
        _piece_statistics(matrix, piece_rows, means, squares)
        _combine_statistics(means, squares, rows, piece_rows, mean, var)
        _meet_others(mean, var, rows, parameters)
    else:
        run(np.copyto, mean, running_mean)
        run(np.copyto, var, running_var)
    inv_std, coefficients = np.empty(channels), np.empty((3, channels), matrix.dtype)
    _coefficients(mean, var, eps, contiguous(gamma), contiguous(beta), inv_std, coefficients)
    return mean, inv_std, coefficients


def _meet_others(mean: np.ndarray, var: np.ndarray, rows: int, parameters: BatchNormParameters) -> None:
    """Make `mean` and `var` of `rows`, in place, those of all parts of the batch, and update the running ones."""
    _, _, running_mean, running_var, _, momentum, _, gather = parameters
    if gather is not None:
        means, squares = _of_parts(gather(np.stack([mean, var * rows])))
        rows, piece_rows = rows * len(means), rows
        _combine_statistics(means, squares, rows, piece_rows, mean, var)
    for running, batch, correction in ((running_mean, mean, 1.0), (running_var, var, rows / (rows - 1))):
        moved = contiguous(running)
        _move_running(moved, momentum, batch, correction)
        if moved is not running:
            run(np.copyto, running, moved)


def of_statistics(
    mean: np.ndarray, var: np.ndarray, rows: int, parameters: BatchNormParameters
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`mean`, `inv_std`, and scale and offset in float64, y = x * scale + offset, of given statistics of `rows`.

    `mean` and `var`, float64, are those of this part of the batch, and become those of all. The running statistics are
    updated.
    """
    _meet_others(mean, var, rows, parameters)
    inv_std, scale, offset = np.empty((3, mean.size))
    gamma, beta = contiguous(parameters.gamma), contiguous(parameters.beta)
    _affine(mean, var, parameters.eps, gamma, beta, inv_std, scale, offset)
    return mean, inv_std, scale, offset


def _of_parts(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays (S, C) of what `gather` returns, (S, 2, C)."""
    return np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1])


def gradient_coefficients(
    sums: np.ndarray,
    products: np.ndarray,
    rows: int,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    training: bool,
    gather: Gather | None,
    out: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shift, scale, offset, slope): dx = dy * scale + offset + (x - shift) * slope; and `dgamma`, `dbeta`.

    `sums` and `products`, (pieces, C), are partial sums of dy and of dy * (x - shift) over pieces of the `rows` of x.
    """
    channels, dtype = gamma.size, gamma.dtype
    dgamma, dbeta = (np.empty(channels, dtype) if array is None else array for array in out)
    coefficients, gamma = np.empty((4, channels), dtype), contiguous(gamma)
    _combine_gradients(sums, products, rows, (mean, inv_std), gamma, training, dgamma, dbeta, coefficients)
    if training and gather is not None:
        sums, products = _of_parts(gather(np.stack([sums.sum(0), products.sum(0)])))
        unused, rows = np.empty((2, channels), dtype), rows * len(sums)
        _combine_gradients(sums, products, rows, (mean, inv_std), gamma, training, *unused, coefficients)
    return coefficients, dgamma, dbeta


def batch_norm(x: np.ndarray, parameters: BatchNormParameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix, y = _matrix(x), aligned.empty_like(x)
    mean, inv_std, coefficients = normalisation(matrix, parameters)
    _apply(matrix, _piece_rows(matrix.shape[1]), y.reshape(matrix.shape), coefficients)
    return y, mean, inv_std


def batch_norm_backward(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
    training: bool,
    gather: Gather | None,
    out: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix, dmatrix, dx = _matrix(x), _matrix(dy), aligned.empty_like(x)
    rows, channels = matrix.shape
    piece_rows = _piece_rows(channels)
    sums, products = np.empty((2, -(-rows // piece_rows), channels))
    _piece_gradients(dmatrix, matrix, piece_rows, mean, sums, products)
    coefficients, dgamma, dbeta = gradient_coefficients(
        sums, products, rows, gamma, mean, inv_std, training, gather, out
    )
    _apply_gradients(dmatrix, matrix, piece_rows, dx.reshape(matrix.shape), coefficients, training)
    return dx, dgamma, dbeta
