"""Epilogues shared by several algorithms: what follows a convolution, and reducing split-K parts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import clear_elements
from gpunet.ops._simd import PANEL_BYTES, scale_and_pool

_SERIAL_SIZE = 2**15
"""Up to this many elements, waking other threads takes longer than it saves."""


class Epilogue(NamedTuple):
    """What follows a convolution while its sums are still in cache: y = maximum of sum * scale + offset and `low`."""

    coefficients: np.ndarray
    """(2, C): scale and offset, and a panel more, as they are read in panels; (2, 0) if nothing follows."""
    low: np.floating
    """0 for ReLU, else -infinity."""
    window: int
    """2 for max pooling of 2x2 windows, else 1."""


def no_epilogue(dtype: np.dtype) -> Epilogue:
    return Epilogue(np.empty((2, 0), dtype), dtype.type(-np.inf), 1)


def padded_to_panels(channels: int, itemsize: int) -> int:
    panel = PANEL_BYTES // itemsize
    return -(-channels // panel) * panel


@jit
def finish(values, rows, columns, epilogue, first, count, channels, y, at):
    """Apply `epilogue` to a panel of sums, flat (rows, columns, panel), of `count` channels from `first` on.

    The results are written to the flat `y`, from element `at` on, whose positions are `channels` apart.
    """
    panel, window, padded = PANEL_BYTES // values.itemsize, epilogue.window, epilogue.coefficients.shape[1]
    coefficients, right, below = epilogue.coefficients.reshape(-1), (window - 1) * panel, (window - 1) * columns * panel
    scale, offset = first, padded + first
    for i in range(rows // window):
        for j in range(columns // window):
            source = (i * columns + j) * window * panel
            target, to = (y, at) if count == panel else (values, source)
            scale_and_pool(*(values, source, right, below), *(coefficients, scale, offset), *(epilogue.low, target, to))
            for c in range(count if count < panel else 0):
                y[at + c] = values[source + c]
            at += channels


@jit
def _finish_row(x, n, i, epilogue, y):
    """Row i of image n of `y`: `epilogue` of its windows in `x`. NaN is larger than any number."""
    scale, offset, low, window = epilogue.coefficients[0], epilogue.coefficients[1], epilogue.low, epilogue.window
    for j in range(y.shape[2]):
        top, left = i * window, j * window
        bottom, right = top + window - 1, left + window - 1
        for c in range(y.shape[3]):
            v0, v1 = x[n, top, left, c] * scale[c] + offset[c], x[n, top, right, c] * scale[c] + offset[c]
            v2, v3 = x[n, bottom, left, c] * scale[c] + offset[c], x[n, bottom, right, c] * scale[c] + offset[c]
            upper, lower = v1 if (v1 > v0) | (v1 != v1) else v0, v3 if (v3 > v2) | (v3 != v3) else v2
            value = lower if (lower > upper) | (lower != lower) else upper
            y[n, i, j, c] = low if value <= low else value


@jit
def finish_maps(x, epilogue, y):
    """y = `epilogue` of the maps x, (N, H, W, C), from which rows and columns in no window are left out."""
    batch, out_height = y.shape[0], y.shape[1]
    rows = batch * out_height
    parts = 1 if y.size <= _SERIAL_SIZE else rows
    for part in prange(parts):
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            _finish_row(x, row // out_height, row % out_height, epilogue, y)


@jit
def clear_taps(weight, top, bottom, left, right):
    """Set all taps of `weight`, (R, S, C_in, C_out), to zero that are not between these rows and columns."""
    rows, columns, inner, outer = weight.shape
    flat, size = weight.reshape(-1), inner * outer
    for tap in prange(rows * columns):
        i, j = tap // columns, tap % columns
        if not (top <= i < bottom and left <= j < right):
            clear_elements(flat, tap * size, size)


@jit
def add_bias(y, n, i, bias):
    """Add bias, (C,) or empty, to row i of image n of y, (N, H, W, C), while that row is in cache."""
    if bias.size:
        for j in range(y.shape[2]):
            for c in range(y.shape[3]):
                y[n, i, j, c] += bias[c]


@jit
def reduce_split_k(partial, total):
    """Sum `partial` over its first axis, the parts, in order; the result is written to the vector `total`."""
    parts, size = partial.shape
    block = 4096
    for task in prange((size + block - 1) // block):
        start, stop = task * block, min(size, (task + 1) * block)
        here = total[start:stop]
        here[:] = partial[0, start:stop]
        for part in range(1, parts):
            values = partial[part, start:stop]
            for at in range(values.size):
                here[at] += values[at]
