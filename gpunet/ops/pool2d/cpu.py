"""Pooling on the CPU: parallel over the rows of the output, so that threads never write to the same row.

The channel loop is innermost and contiguous. The backward passes gather: each row of dx collects from the windows that
cover it. The tables of :func:`_axis` list what a window covers along one axis. The usual pooling, non-overlapping 2x2
windows, has dedicated kernels that read and write every element once and run at memory bandwidth.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._numba import jit, prange
from gpunet.ops._simd import VECTOR_BYTES
from gpunet.ops._window import unpool_tap
from gpunet.ops.geometry import Pool2dGeometry

_FEW_TAPS = 64
"""Averages of up to this many float32 elements are summed in float32, longer ones in float64."""


class _Axis(NamedTuple):
    """The windows along one axis, indexed by output and by input position."""

    windows: np.ndarray
    """(out, 3): input position of a window's first tap (may be negative), first and end of its taps inside the map.

    The range is empty if a dilated window covers no element.
    """
    counts: np.ndarray
    """(out,): divisor of the average."""
    first: np.ndarray
    """(size + 1,): input position k is covered by the windows ``covers[first[k]:first[k + 1]]``."""
    covers: np.ndarray
    """(any, 2): output position and tap."""


@functools.lru_cache(maxsize=256)
def _axis(g: Pool2dGeometry, axis: int, count_include_pad: bool = True) -> _Axis:
    size, out = ((g.height, g.out_height), (g.width, g.out_width))[axis]
    kernel, stride, dilation = g.kernel[axis], g.stride[axis], g.dilation[axis]
    before, after = g.padding[2 * axis : 2 * axis + 2]
    start = np.arange(out) * stride - before
    first = np.maximum(-(start // dilation), 0)
    end = np.minimum(-((start - size) // dilation), kernel)
    counts = np.minimum(start + kernel, size + after) - start if count_include_pad else end - first
    position = start[:, None] + np.arange(kernel) * dilation
    position[(position < 0) | (position >= size)] = size
    order = np.argsort(position, axis=None, kind="stable")
    covers = np.stack(np.divmod(order, kernel), 1)
    return _Axis(
        np.stack([start, first, end], 1), counts, np.searchsorted(position.flat[order], np.arange(size + 1)), covers
    )


@jit
def _max_pool(x: Any, y: Any, argmax: Any, rows: Any, columns: Any, kernel_w: int, dilation: Any) -> None:
    batch, out_height, out_width, channels = y.shape
    dilation_h, dilation_w = dilation
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        top, first_p, end_p = rows[i]
        for j in range(out_width):
            left, first_q, end_q = columns[j]
            fresh = True
            if first_p >= end_p or first_q >= end_q:
                for c in range(channels):
                    y[n, i, j, c] = -np.inf
                    argmax[n, i, j, c] = 0
                continue
            for p in range(first_p, end_p):
                row = top + p * dilation_h
                # Three taps at a time, repeating the last one if fewer are left. With one at a time, LLVM would emit
                # a masked store, which is many times slower.
                for q in range(first_q, end_q, 3):
                    q2, q3 = min(q + 1, end_q - 1), min(q + 2, end_q - 1)
                    column, column2, column3 = left + q * dilation_w, left + q2 * dilation_w, left + q3 * dilation_w
                    tap, tap2 = argmax.dtype.type(p * kernel_w + q), argmax.dtype.type(p * kernel_w + q2)
                    tap3 = argmax.dtype.type(p * kernel_w + q3)
                    for c in range(channels):
                        value = x[n, row, column, c]
                        best, best_tap = value, tap
                        if not fresh:
                            best, best_tap = y[n, i, j, c], argmax[n, i, j, c]
                        if (value > best) | (value != value):  # NaN wins
                            best, best_tap = value, tap
                        value = x[n, row, column2, c]
                        if (value > best) | (value != value):
                            best, best_tap = value, tap2
                        value = x[n, row, column3, c]
                        if (value > best) | (value != value):
                            best, best_tap = value, tap3
                        y[n, i, j, c] = best
                        argmax[n, i, j, c] = best_tap
                    fresh = False


@jit
def _max_pool_backward(
    dy: Any, argmax: Any, dx: Any, first_row: Any, rows: Any, first_column: Any, columns: Any, kernel_w: int
) -> None:
    batch, height, width, channels = dx.shape
    _, out_height, out_width, _ = dy.shape
    flat_dy, flat_argmax, flat_dx = dy.reshape(-1), argmax.reshape(-1), dx.reshape(-1)
    zero, lanes = dx.dtype.type(0), VECTOR_BYTES // dx.itemsize
    for piece in prange(batch * height):
        n, row = piece // height, piece % height
        for column in range(width):
            fresh = True
            for a in range(first_row[row], first_row[row + 1]):
                i, p = rows[a]
                for b in range(first_column[column], first_column[column + 1]):
                    j, q = columns[b]
                    tap = argmax.dtype.type(p * kernel_w + q)
                    at, to = ((n * out_height + i) * out_width + j) * channels, (piece * width + column) * channels
                    for c in range(0, channels - lanes + 1, lanes):
                        unpool_tap(flat_dy, at + c, flat_argmax, at + c, tap, fresh, flat_dx, to + c)
                    for c in range(channels // lanes * lanes, channels):
                        total = zero if fresh else dx[n, row, column, c]
                        dx[n, row, column, c] = total + (dy[n, i, j, c] if argmax[n, i, j, c] == tap else zero)
                    fresh = False
            if fresh:
                for c in range(channels):
                    dx[n, row, column, c] = zero


@jit
def _max_pool_2x2(x: Any, y: Any, argmax: Any) -> None:
    batch, out_height, out_width, channels = y.shape
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        for j in range(out_width):
            for c in range(channels):
                best, tap = x[n, 2 * i, 2 * j, c], np.uint8(0)
                value = x[n, 2 * i, 2 * j + 1, c]
                if (value > best) | (value != value):
                    best, tap = value, np.uint8(1)
                value = x[n, 2 * i + 1, 2 * j, c]
                if (value > best) | (value != value):
                    best, tap = value, np.uint8(2)
                value = x[n, 2 * i + 1, 2 * j + 1, c]
                if (value > best) | (value != value):
                    best, tap = value, np.uint8(3)
                y[n, i, j, c] = best
                argmax[n, i, j, c] = tap


@jit
def _max_pool_2x2_backward(dy: Any, argmax: Any, dx: Any) -> None:
    batch, out_height, out_width, channels = dy.shape
    _, height, width, _ = dx.shape
    zero = dx.dtype.type(0)
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        for j in range(out_width):
            for c in range(channels):
                d, tap = dy[n, i, j, c], argmax[n, i, j, c]
                dx[n, 2 * i, 2 * j, c] = d if tap == 0 else zero
                dx[n, 2 * i, 2 * j + 1, c] = d if tap == 1 else zero
                dx[n, 2 * i + 1, 2 * j, c] = d if tap == 2 else zero
                dx[n, 2 * i + 1, 2 * j + 1, c] = d if tap == 3 else zero
        if width > 2 * out_width:
            dx[n, 2 * i : 2 * i + 2, width - 1] = 0
        if height > 2 * out_height and i == out_height - 1:
            dx[n, height - 1] = 0


@jit
def _avg_pool(x: Any, y: Any, zero: Any, rows: Any, row_counts: Any, columns: Any, column_counts: Any) -> None:
    batch, out_height, out_width, channels = y.shape
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        top, first_p, end_p = rows[i]
        total = np.full(channels, zero)
        for j in range(out_width):
            left, first_q, end_q = columns[j]
            for c in range(channels):
                total[c] = zero
            for row in range(top + first_p, top + end_p):
                for column in range(left + first_q, left + end_q):
                    for c in range(channels):
                        total[c] += x[n, row, column, c]
            count = x.dtype.type(row_counts[i] * column_counts[j])
            for c in range(channels):
                y[n, i, j, c] = total[c] / count


@jit
def _avg_pool_2x2(x: Any, y: Any) -> None:
    batch, out_height, out_width, channels = y.shape
    quarter = x.dtype.type(0.25)
    for piece in prange(batch * out_height):
        n, i = piece // out_height, piece % out_height
        for j in range(out_width):
            for c in range(channels):
                upper = x[n, 2 * i, 2 * j, c] + x[n, 2 * i, 2 * j + 1, c]
                y[n, i, j, c] = (upper + (x[n, 2 * i + 1, 2 * j, c] + x[n, 2 * i + 1, 2 * j + 1, c])) * quarter


@jit
def _avg_pool_backward(
    dy: Any, dx: Any, row_counts: Any, column_counts: Any, first_row: Any, rows: Any, first_column: Any, columns: Any
) -> None:
    batch, height, width, channels = dx.shape
    zero, one = dx.dtype.type(0), dx.dtype.type(1)
    for piece in prange(batch * height):
        n, row = piece // height, piece % height
        for column in range(width):
            fresh = True
            for a in range(first_row[row], first_row[row + 1]):
                i = rows[a, 0]
                for b in range(first_column[column], first_column[column + 1]):
                    j = columns[b, 0]
                    share = one / dx.dtype.type(row_counts[i] * column_counts[j])
                    for c in range(channels):
                        total = zero if fresh else dx[n, row, column, c]
                        dx[n, row, column, c] = total + dy[n, i, j, c] * share
                    fresh = False
            if fresh:
                for c in range(channels):
                    dx[n, row, column, c] = zero


def max_pool2d(x: np.ndarray, geometry: Pool2dGeometry, argmax_dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    g, x = geometry, contiguous(x)
    y, argmax = aligned.empty(g.y_shape, x.dtype), aligned.empty(g.y_shape, argmax_dtype)
    if g.tiles_2x2:
        _max_pool_2x2(x, y, argmax)
    else:
        _max_pool(x, y, argmax, _axis(g, 0).windows, _axis(g, 1).windows, g.kernel[1], g.dilation)
    return y, argmax


def max_pool2d_backward(dy: np.ndarray, argmax: np.ndarray, geometry: Pool2dGeometry) -> np.ndarray:
    g, dy, argmax = geometry, contiguous(dy), contiguous(argmax)
    dx = aligned.empty(g.x_shape, dy.dtype)
    if g.tiles_2x2:
        _max_pool_2x2_backward(dy, argmax, dx)
    else:
        rows, columns = _axis(g, 0), _axis(g, 1)
        _max_pool_backward(dy, argmax, dx, rows.first, rows.covers, columns.first, columns.covers, g.kernel[1])
    return dx


def avg_pool2d(x: np.ndarray, geometry: Pool2dGeometry, count_include_pad: bool) -> np.ndarray:
    g, x = geometry, contiguous(x)
    y = aligned.empty(g.y_shape, x.dtype)
    if g.tiles_2x2:
        _avg_pool_2x2(x, y)
    else:
        rows, columns = _axis(g, 0, count_include_pad), _axis(g, 1, count_include_pad)
        zero = x.dtype.type(0) if g.kernel[0] * g.kernel[1] <= _FEW_TAPS else np.float64(0)
        _avg_pool(x, y, zero, rows.windows, rows.counts, columns.windows, columns.counts)
    return y


def avg_pool2d_backward(dy: np.ndarray, geometry: Pool2dGeometry, count_include_pad: bool) -> np.ndarray:
    rows, columns = _axis(geometry, 0, count_include_pad), _axis(geometry, 1, count_include_pad)
    dx = aligned.empty(geometry.x_shape, dy.dtype)
    _avg_pool_backward(
        contiguous(dy),
        dx,
        rows.counts,
        columns.counts,
        rows.first,
        rows.covers,
        columns.first,
        columns.covers,
    )
    return dx
