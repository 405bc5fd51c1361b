"""Convolution as GEMMs over im2col tiles that fit in the L2 cache.

Source: Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing, 2006.
"""

from __future__ import annotations

import numpy as np

from gpunet.ops._blas import gemm
from gpunet.ops._numba import jit, prange
from gpunet.ops.conv2d.cpu.epilogue import add_bias


@jit
def _fill_tile(x, taps_y, taps_x, start, stop, tile):
    """Write the patches of output rows start ... stop - 1 (counted over all images) as rows of `tile`."""
    out_height, out_width, channels = taps_y.shape[0], taps_x.shape[0], x.shape[3]
    entry = 0
    for out_row in range(start, stop):
        image, i = out_row // out_height, out_row % out_height
        for j in range(out_width):
            at = 0
            for p in range(taps_y.shape[1]):
                row = taps_y[i, p]
                for q in range(taps_x.shape[1]):
                    column = taps_x[j, q]
                    if row < 0 or column < 0:
                        for c in range(channels):
                            tile[entry, at + c] = 0
                    else:
                        for c in range(channels):
                            tile[entry, at + c] = x[image, row, column, c]
                    at += channels
            entry += 1
    return entry


@jit
def convolution(address, x, weight, bias, taps_y, taps_x, tile_rows, y):
    """y = convolution of x plus bias, (C_out,) or empty."""
    kernel_h, kernel_w, inner, out_channels = weight.shape
    depth = kernel_h * kernel_w * inner
    out_rows, out_width = y.shape[0] * y.shape[1], y.shape[2]
    size = x.itemsize
    for task in prange((out_rows + tile_rows - 1) // tile_rows):
        tile = np.empty((tile_rows * out_width, depth), x.dtype)
        start = task * tile_rows
        stop = min(out_rows, start + tile_rows)
        entries = _fill_tile(x, taps_y, taps_x, start, stop, tile)
        gemm(
            address,
            0,
            0,
            entries,
            out_channels,
            depth,
            tile.ctypes.data,
            depth,
            weight.ctypes.data,
            out_channels,
            x.dtype.type(0),
            y.ctypes.data + start * out_width * out_channels * size,
            out_channels,
        )
        for out_row in range(start, stop):
            add_bias(y, out_row // y.shape[1], out_row % y.shape[1], bias)


@jit
def split_k_weight_gradient(address, x, dy, taps_y, taps_x, tile_rows, partial):
    """partial[k]: the contribution of the k-th part of the output rows to the weight gradient, (depth, C_out)."""
    parts, depth, out_channels = partial.shape
    out_rows, out_width = dy.shape[0] * dy.shape[1], dy.shape[2]
    size = x.itemsize
    for part in prange(parts):
        tile = np.empty((tile_rows * out_width, depth), x.dtype)
        beta = x.dtype.type(0)
        stop = (part + 1) * out_rows // parts
        for start in range(part * out_rows // parts, stop, tile_rows):
            entries = _fill_tile(x, taps_y, taps_x, start, min(stop, start + tile_rows), tile)
            gemm(
                address,
                1,
                0,
                depth,
                out_channels,
                entries,
                tile.ctypes.data,
                depth,
                dy.ctypes.data + start * out_width * out_channels * size,
                out_channels,
                beta,
                partial.ctypes.data + part * depth * out_channels * size,
                out_channels,
            )
            beta = x.dtype.type(1)
