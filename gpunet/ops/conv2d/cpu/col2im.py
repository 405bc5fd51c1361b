"""The input gradient for few input channels: a GEMM of dy and the weights, scattered back by col2im.

Source: Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing, 2006.
"""

from __future__ import annotations

import numpy as np

from gpunet.ops._blas import gemm, gemm_address
from gpunet.ops._numba import jit, prange
from gpunet.ops.conv2d.taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_POSITIONS = 256
"""Approximate number of output positions per GEMM, so that its result stays in the L1 cache until it is scattered."""


@jit
def _input_gradient(address, dy, weight, taps_y, taps_x, tile_rows, dx):
    """dx, one task per image: GEMMs over tile_rows rows of dy, scattered by the tables of the forward pass."""
    batch, out_height, out_width, out_channels = dy.shape
    kernel_h, kernel_w, channels, _ = weight.shape
    terms, size = kernel_h * kernel_w * channels, dy.itemsize
    for n in prange(batch):
        dx[n] = 0
        tile = np.empty((tile_rows * out_width, kernel_h, kernel_w, channels), dy.dtype)
        for first in range(0, out_height, tile_rows):
            rows = min(tile_rows, out_height - first)
            gemm(
                address,
                0,
                1,
                rows * out_width,
                terms,
                out_channels,
                dy.ctypes.data + (n * out_height + first) * out_width * out_channels * size,
                out_channels,
                weight.ctypes.data,
                out_channels,
                dy.dtype.type(0),
                tile.ctypes.data,
                terms,
            )
            for i in range(rows):
                for p in range(kernel_h):
                    row = taps_y[first + i, p]
                    if row < 0:
                        continue
                    for j in range(out_width):
                        for q in range(kernel_w):
                            column = taps_x[j, q]
                            if column >= 0:
                                for c in range(channels):
                                    dx[n, row, column, c] += tile[i * out_width + j, p, q, c]


def input_gradient(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry, dx: np.ndarray) -> None:
    """The gradient of the input, written to `dx`; for one group."""
    taps_y, taps_x = tap_tables(g)[0]
    tile_rows = max(1, min(g.out_height, _POSITIONS // g.out_width))
    _input_gradient(gemm_address(dy.dtype), dy, weight, taps_y, taps_x, tile_rows, dx)
