"""Batch normalisation, 2x2 max pooling and ReLU on the CPU: each direction is a reduction and one more pass over x.

Forward, x is normalised and pooled as it is read. Backward, the gradient is non-zero only at the maxima, so the two
sums need only dy and x there, which follows from y: (y - offset) / scale, unless the scale is too small. dx is the
gradient through the batch statistics everywhere, plus the scaled dy at the maxima.

All branches in the loops over channels select between loaded values, so that they vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._numba import jit, prange
from gpunet.ops.batchnorm import cpu as batchnorm
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.batchnorm_pool import NO_TAP, BatchNormMaxPoolSaved
from gpunet.ops.geometry import Pool2dGeometry
from gpunet.ops.pool2d import cpu as pool2d
from gpunet.recording import run

_MAX_OFFSET = 4
"""Where y is at most so many times as large as what gamma scales, x can be told from it."""
_LEAST, _LEAST_DOUBLE = (float(np.finfo(dtype).tiny / np.finfo(dtype).eps) for dtype in (np.float32, np.float64))
"""What gamma and the scale must be at least, so that y keeps its digits."""


@jit
def _normalise_and_pool(x: Any, coefficients: Any, relu: bool, y: Any, argmax: Any) -> None:
    batch, out_height, out_width, channels = y.shape
    zero, no_tap = y.dtype.type(0), np.uint8(NO_TAP)
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        for j in range(out_width):
            for c in range(channels):
                shift, scale, offset = coefficients[0, c], coefficients[1, c], coefficients[2, c]
                v0 = (x[n, 2 * i, 2 * j, c] - shift) * scale + offset
                v1 = (x[n, 2 * i, 2 * j + 1, c] - shift) * scale + offset
                v2 = (x[n, 2 * i + 1, 2 * j, c] - shift) * scale + offset
                v3 = (x[n, 2 * i + 1, 2 * j + 1, c] - shift) * scale + offset
                right = (v1 > v0) | (v1 != v1)  # NaN wins
                upper, upper_tap = v1 if right else v0, np.uint8(1) if right else np.uint8(0)
                right = (v3 > v2) | (v3 != v3)
                lower, lower_tap = v3 if right else v2, np.uint8(3) if right else np.uint8(2)
                down = (lower > upper) | (lower != lower)
                value, tap = lower if down else upper, lower_tap if down else upper_tap
                cut = relu & (value <= zero)
                y[n, i, j, c] = zero if cut else value
                argmax[n, i, j, c] = no_tap if cut else tap


@jit
def _piece_gradients(
    dy: Any, x: Any, argmax: Any, piece_rows: int, piece_columns: int, mean: Any, sums: Any, products: Any
) -> None:
    """Sums over each piece of dy and of dy * (x at the maximum - shift), where shift is the mean in x's dtype."""
    batch, out_height, out_width, channels = dy.shape
    zero = dy.dtype.type(0)
    rows, pieces_across = batch * out_height, (out_width + piece_columns - 1) // piece_columns
    for piece in prange(sums.shape[0]):
        down, across = piece // pieces_across, piece % pieces_across
        shift, first, second = np.empty(channels, x.dtype), np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        for c in range(channels):
            shift[c] = mean[c]
            first[c] = 0
            second[c] = 0
        for row in range(down * piece_rows, min(rows, (down + 1) * piece_rows)):
            n, i = row // out_height, row % out_height
            for j in range(across * piece_columns, min(out_width, (across + 1) * piece_columns)):
                for c in range(channels):
                    d, tap = dy[n, i, j, c], argmax[n, i, j, c]
                    x0, x1 = x[n, 2 * i, 2 * j, c], x[n, 2 * i, 2 * j + 1, c]
                    x2, x3 = x[n, 2 * i + 1, 2 * j, c], x[n, 2 * i + 1, 2 * j + 1, c]
                    upper, lower = x1 if tap == 1 else x0, x3 if tap == 3 else x2
                    d = zero if tap == NO_TAP else d
                    first[c] += d
                    second[c] += d * ((lower if tap >= 2 else upper) - shift[c])
        for c in range(channels):
            sums[piece, c] = first[c]
            products[piece, c] = second[c]


@jit
def _affine(mean: Any, inv_std: Any, gamma: Any, beta: Any, affine: Any) -> bool:
    """Scale and offset of the forward pass in `affine`, float64 (2, C); whether x can be told from y by them.

    It can be to `_MAX_OFFSET` times the rounding errors of y, relative to the deviations of x, unless y is subnormal.
    """
    told, least = True, _LEAST if gamma.itemsize == 4 else _LEAST_DOUBLE
    for c in range(mean.size):
        scale = gamma[c] * inv_std[c]
        affine[0, c] = gamma.dtype.type(scale)
        affine[1, c] = gamma.dtype.type(beta[c] - (mean[c] - gamma.dtype.type(mean[c])) * scale)
        told &= abs(beta[c]) <= _MAX_OFFSET * abs(gamma[c]) and min(abs(gamma[c]), abs(affine[0, c])) >= least
    return told


@jit
def _piece_gradients_of_outputs(
    dy: Any, y: Any, argmax: Any, piece_rows: int, affine: Any, sums: Any, products: Any
) -> None:
    """As :func:`_piece_gradients`, for matrices of channels, from y."""
    rows, channels = dy.shape
    zero = dy.dtype.type(0)
    for piece in prange(sums.shape[0]):
        first, second = np.empty(channels, y.dtype), np.empty(channels, y.dtype)
        for c in range(channels):
            first[c] = 0
            second[c] = 0
        for row in range(piece * piece_rows, min(rows, (piece + 1) * piece_rows)):
            for c in range(channels):
                d = zero if argmax[row, c] == NO_TAP else dy[row, c]
                first[c] += d
                second[c] += d * y[row, c]
        for c in range(channels):
            sums[piece, c] = first[c]
            products[piece, c] = (second[c] - affine[1, c] * first[c]) / affine[0, c]


@jit
def _dense_gradient(x: Any, n: int, row: int, column: int, coefficients: Any, dx: Any) -> None:
    """dx outside all windows."""
    for c in range(x.shape[3]):
        dx[n, row, column, c] = coefficients[2, c] + (x[n, row, column, c] - coefficients[0, c]) * coefficients[3, c]


@jit
def _apply_gradients(dy: Any, x: Any, argmax: Any, coefficients: Any, dx: Any) -> None:
    batch, out_height, out_width, channels = dy.shape
    _, height, width, _ = x.shape
    zero = dx.dtype.type(0)
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        for half in range(2):  # one row of dx at a time: writing both at once is slower
            row, left, right = 2 * i + half, np.uint8(2 * half), np.uint8(2 * half + 1)
            for j in range(out_width):
                for c in range(channels):
                    shift, scale = coefficients[0, c], coefficients[1, c]
                    offset, slope = coefficients[2, c], coefficients[3, c]
                    d, tap = dy[n, i, j, c], argmax[n, i, j, c]
                    d0, d1 = d if tap == left else zero, d if tap == right else zero
                    dx[n, row, 2 * j, c] = (d0 * scale + offset) + (x[n, row, 2 * j, c] - shift) * slope
                    dx[n, row, 2 * j + 1, c] = (d1 * scale + offset) + (x[n, row, 2 * j + 1, c] - shift) * slope
            if width > 2 * out_width:
                _dense_gradient(x, n, row, width - 1, coefficients, dx)
        if height > 2 * out_height and i == out_height - 1:
            for column in range(width):
                _dense_gradient(x, n, height - 1, column, coefficients, dx)


def _piece_windows(channels: int) -> int:
    """Windows per partial sum, few enough for float32."""
    return min(max(2048 // channels, 4), 64)


def _piece_shape(out_width: int, channels: int) -> tuple[int, int]:
    """Rows and columns of windows per partial sum."""
    windows = _piece_windows(channels)
    return max(windows // out_width, 1), min(windows, out_width)


def batch_norm_max_pool(
    x: np.ndarray, parameters: BatchNormParameters, relu: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x, y_shape = contiguous(x), Pool2dGeometry.of(x.shape, 2).y_shape
    mean, inv_std, coefficients = batchnorm.normalisation(x.reshape(-1, x.shape[3]), parameters)
    y, argmax = aligned.empty(y_shape, x.dtype), aligned.empty(y_shape, np.uint8)
    _normalise_and_pool(x, coefficients, relu, y, argmax)
    return y, mean, inv_std, argmax


def _sums(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, saved: BatchNormMaxPoolSaved
) -> tuple[np.ndarray, np.ndarray]:
    """Partial sums of dy and of dy * (x at the maximum - shift), float64 (pieces, C)."""
    batch, out_height, out_width, channels = dy.shape
    piece_rows, piece_columns = _piece_shape(out_width, channels)
    pieces = -(-batch * out_height // piece_rows) * -(-out_width // piece_columns)
    if saved.outputs is None:
        sums, products = np.empty((2, pieces, channels))
        _piece_gradients(dy, x, saved.argmax, piece_rows, piece_columns, saved.mean, sums, products)
        return sums, products
    row_pieces = -(-batch * out_height * out_width // _piece_windows(channels))
    sums, products = np.empty((2, max(pieces, row_pieces), channels))
    run(_sums_of_outputs, dy, x, gamma, saved, (pieces, row_pieces), sums, products)
    return sums, products


def _sums_of_outputs(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    saved: BatchNormMaxPoolSaved,
    pieces: tuple[int, int],
    sums: np.ndarray,
    products: np.ndarray,
) -> None:
    """:func:`_sums`, from the outputs if they tell the inputs: `pieces` are those of inputs and of outputs."""
    assert saved.outputs is not None
    channels, (y, beta) = dy.shape[3], saved.outputs
    affine = np.empty((2, channels))
    told = _affine(saved.mean, saved.inv_std, gamma, beta, affine)
    if told:
        matrices = (array.reshape(-1, channels) for array in (dy, y, saved.argmax))
        _piece_gradients_of_outputs(*matrices, _piece_windows(channels), affine, sums, products)
    else:
        shape = _piece_shape(dy.shape[2], channels)
        _piece_gradients(dy, x, saved.argmax, *shape, saved.mean, sums, products)
    used = pieces[1] if told else pieces[0]
    sums[used:], products[used:] = 0, 0


def batch_norm_max_pool_backward(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    saved: BatchNormMaxPoolSaved,
    out: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dy, x, gamma = contiguous(dy), contiguous(x), contiguous(gamma)
    outputs = None if saved.outputs is None else (contiguous(saved.outputs[0]), contiguous(saved.outputs[1]))
    saved = saved._replace(argmax=contiguous(saved.argmax), outputs=outputs)
    sums, products = _sums(dy, x, gamma, saved)
    coefficients, dgamma, dbeta = batchnorm.gradient_coefficients(
        *(sums, products, x.size // x.shape[3], gamma, saved.mean, saved.inv_std, saved.training, saved.gather, out)
    )
    if saved.training:
        dx = aligned.empty_like(x)
        _apply_gradients(dy, x, saved.argmax, coefficients, dx)
    else:  # no gradient through the statistics
        scaled = aligned.empty_like(dy)
        run(np.multiply, dy, coefficients[1], scaled)
        dx = pool2d.max_pool2d_backward(scaled, saved.argmax, Pool2dGeometry.of(x.shape, 2))
    return dx, dgamma, dbeta
