"""Convolution on the CPU. Three ways to compute it, chosen from the shapes alone by :func:`_choose`:

``positions``
    One matrix product for each output position and tap: its rows are the images of a block, which lie at a fixed
    distance in memory, so nothing is copied and taps outside the map are skipped exactly. Neighbouring taps of a
    kernel row are one product where their channels are contiguous. Best for batches.
``im2col``
    The patches of a few output rows are copied into a tile that stays in the L2 cache, and multiplied with the
    weights (Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing, 2006). Best for
    few input channels and for small batches.
``direct``
    Plain loops, for groups of so few channels that a call of BLAS would cost more than its work.

All three are driven by the tables of :mod:`gpunet.ops.conv2d._taps`. The gradient of the input is the same computation
with the roles of the maps exchanged, the tables inverted and the weights transposed.
"""

from __future__ import annotations

import numpy as np

from gpunet.ops._blas import gemm, gemm_address
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._reduce import column_sums
from gpunet.ops.conv2d._taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_TILE_BYTES = 192 * 1024
"""An im2col tile: well inside the L2 cache of any x86-64 core of the last ten years, with room for the weights."""
_PIECES = 16
"""Partial sums of the im2col weight gradient: a constant, so that results do not depend on the number of threads."""


# --- positions --------------------------------------------------------------------------------------------------------


@parallel_jit
def _positions(address, x, weight, trans_weight, taps_y, taps_x, groups, block, y):
    """y = convolution of x; with `trans_weight`, x is dy and y is dx."""
    batch, height, width, x_channels = x.shape
    out_height, out_width, y_channels = y.shape[1], y.shape[2], y.shape[3]
    kernel_h, kernel_w, weight_in, weight_out = weight.shape
    size = x.itemsize
    inner, outer = x_channels // groups, y_channels // groups
    weight_group = weight_out // groups
    x_image, y_image = height * width * x_channels, out_height * out_width * y_channels
    for task in prange(((batch + block - 1) // block) * out_height):
        first = task // out_height * block
        images = min(block, batch - first)
        i = task % out_height
        for j in range(out_width):
            beta = x.dtype.type(0)
            for p in range(kernel_h):
                row = taps_y[i, p]
                if row < 0:
                    continue
                q = 0
                while q < kernel_w:
                    column = taps_x[j, q]
                    run = 1
                    if column >= 0:
                        # taps that are neighbours in memory, in the map and in the weights, are one product
                        while (
                            trans_weight == 0
                            and groups == 1
                            and q + run < kernel_w
                            and taps_x[j, q + run] == column + run
                        ):
                            run += 1
                        for group in range(groups):
                            gemm(
                                address,
                                0,
                                trans_weight,
                                images,
                                outer,
                                run * inner,
                                x.ctypes.data
                                + (first * x_image + (row * width + column) * x_channels + group * inner) * size,
                                x_image,
                                weight.ctypes.data
                                + ((p * kernel_w + q) * weight_in * weight_out + group * weight_group) * size,
                                weight_out,
                                beta,
                                y.ctypes.data
                                + (first * y_image + (i * out_width + j) * y_channels + group * outer) * size,
                                y_image,
                            )
                        beta = x.dtype.type(1)
                    q += run
            if beta == 0:  # no tap meets the map
                for n in range(first, first + images):
                    y[n, i, j, :] = 0


@parallel_jit
def _positions_weight(address, x, dy, taps_y, taps_x, groups, block, dweight):
    """dweight, one task for each tap, group and block of output channels."""
    batch, height, width, in_channels = x.shape
    out_height, out_width, out_channels = dy.shape[1], dy.shape[2], dy.shape[3]
    kernel_h, kernel_w, inner = dweight.shape[0], dweight.shape[1], dweight.shape[2]
    outer = out_channels // groups
    blocks = (outer + block - 1) // block
    size = x.itemsize
    x_image, y_image = height * width * in_channels, out_height * out_width * out_channels
    for task in prange(kernel_h * kernel_w * groups * blocks):
        tap, part = task // (groups * blocks), task % (groups * blocks)
        group, start = part // blocks, part % blocks * block
        p, q = tap // kernel_w, tap % kernel_w
        channel = group * outer + start
        channels = min(block, outer - start)
        beta = x.dtype.type(0)
        for i in range(out_height):
            row = taps_y[i, p]
            if row < 0:
                continue
            for j in range(out_width):
                column = taps_x[j, q]
                if column < 0:
                    continue
                gemm(
                    address,
                    1,
                    0,
                    inner,
                    channels,
                    batch,
                    x.ctypes.data + ((row * width + column) * in_channels + group * inner) * size,
                    x_image,
                    dy.ctypes.data + ((i * out_width + j) * out_channels + channel) * size,
                    y_image,
                    beta,
                    dweight.ctypes.data + (tap * inner * out_channels + channel) * size,
                    out_channels,
                )
                beta = x.dtype.type(1)
        if beta == 0:
            dweight[p, q, :, channel : channel + channels] = 0


# --- im2col -----------------------------------------------------------------------------------------------------------


@jit
def _fill_tile(x, taps_y, taps_x, start, stop, channel, channels, tile):
    """Patches of the output rows start ... stop - 1 (of all images, counted on) as rows of `tile`."""
    out_height, out_width = taps_y.shape[0], taps_x.shape[0]
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
                            tile[entry, at + c] = x[image, row, column, channel + c]
                    at += channels
            entry += 1
    return entry


@parallel_jit
def _im2col(address, x, weight, taps_y, taps_x, groups, tile_rows, y):
    kernel_h, kernel_w, inner, out_channels = weight.shape
    depth, outer = kernel_h * kernel_w * inner, out_channels // groups
    out_rows, out_width = y.shape[0] * y.shape[1], y.shape[2]
    size = x.itemsize
    for task in prange((out_rows + tile_rows - 1) // tile_rows):
        tile = np.empty((tile_rows * out_width, depth), x.dtype)
        start = task * tile_rows
        stop = min(out_rows, start + tile_rows)
        for group in range(groups):
            entries = _fill_tile(x, taps_y, taps_x, start, stop, group * inner, inner, tile)
            gemm(
                address,
                0,
                0,
                entries,
                outer,
                depth,
                tile.ctypes.data,
                depth,
                weight.ctypes.data + group * outer * size,
                out_channels,
                x.dtype.type(0),
                y.ctypes.data + (start * out_width * out_channels + group * outer) * size,
                out_channels,
            )


@parallel_jit
def _im2col_weight(address, x, dy, taps_y, taps_x, groups, tile_rows, partial):
    """partial[k]: the weight gradient, (depth, C_out), of the k-th piece of the output rows."""
    pieces, depth, out_channels = partial.shape
    outer, inner = out_channels // groups, x.shape[3] // groups
    out_rows, out_width = dy.shape[0] * dy.shape[1], dy.shape[2]
    size = x.itemsize
    for piece in prange(pieces):
        tile = np.empty((tile_rows * out_width, depth), x.dtype)
        beta = x.dtype.type(0)
        stop = (piece + 1) * out_rows // pieces
        for start in range(piece * out_rows // pieces, stop, tile_rows):
            for group in range(groups):
                entries = _fill_tile(x, taps_y, taps_x, start, min(stop, start + tile_rows), group * inner, inner, tile)
                gemm(
                    address,
                    1,
                    0,
                    depth,
                    outer,
                    entries,
                    tile.ctypes.data,
                    depth,
                    dy.ctypes.data + (start * out_width * out_channels + group * outer) * size,
                    out_channels,
                    beta,
                    partial.ctypes.data + (piece * depth * out_channels + group * outer) * size,
                    out_channels,
                )
            beta = x.dtype.type(1)


@parallel_jit
def _add_pieces(partial, total):
    pieces, size = partial.shape
    block = 4096
    for task in prange((size + block - 1) // block):
        start, stop = task * block, min(size, (task + 1) * block)
        here = total[start:stop]
        here[:] = partial[0, start:stop]
        for piece in range(1, pieces):
            values = partial[piece, start:stop]
            for at in range(values.size):
                here[at] += values[at]


# --- direct -----------------------------------------------------------------------------------------------------------


@parallel_jit
def _direct(x, weight, trans_weight, taps_y, taps_x, groups, y):
    """y = convolution of x; with `trans_weight`, x is dy and y is dx."""
    batch, out_height, out_width, y_channels = y.shape
    kernel_h, kernel_w, _, _ = weight.shape
    inner, outer = x.shape[3] // groups, y_channels // groups
    for task in prange(batch * out_height):
        n, i = task // out_height, task % out_height
        for j in range(out_width):
            y[n, i, j, :] = 0
            for p in range(kernel_h):
                row = taps_y[i, p]
                if row < 0:
                    continue
                for q in range(kernel_w):
                    column = taps_x[j, q]
                    if column < 0:
                        continue
                    if inner == 1 and outer == 1:  # depthwise: contiguous over the channels
                        for c in range(y_channels):
                            y[n, i, j, c] += x[n, row, column, c] * weight[p, q, 0, c]
                        continue
                    for group in range(groups):
                        for k in range(inner):
                            value = x[n, row, column, group * inner + k]
                            for o in range(outer):
                                if trans_weight:
                                    factor = weight[p, q, o, group * inner + k]
                                else:
                                    factor = weight[p, q, k, group * outer + o]
                                y[n, i, j, group * outer + o] += value * factor


@parallel_jit
def _direct_weight(x, dy, taps_y, taps_x, groups, dweight):
    batch, out_height, out_width, out_channels = dy.shape
    kernel_h, kernel_w, inner, _ = dweight.shape
    outer = out_channels // groups
    for tap in prange(kernel_h * kernel_w):
        p, q = tap // kernel_w, tap % kernel_w
        total = np.zeros((inner, out_channels))
        for n in range(batch):
            for i in range(out_height):
                row = taps_y[i, p]
                if row < 0:
                    continue
                for j in range(out_width):
                    column = taps_x[j, q]
                    if column < 0:
                        continue
                    for k in range(inner):
                        for o in range(out_channels):
                            total[k, o] += x[n, row, column, o // outer * inner + k] * dy[n, i, j, o]
        dweight[p, q] = total


# --- the choice, and the entries that the op calls --------------------------------------------------------------------


def _choose(g: Conv2dGeometry, *, depth: int) -> str:
    """The algorithm for `g`, where each matrix product of ``positions`` adds up `depth` terms."""
    if g.groups > 1 and g.weight_shape[2] * (g.out_channels // g.groups) <= 64:
        return "direct"
    return "positions" if g.batch >= 16 and depth >= 32 else "im2col"


def _image_block(g: Conv2dGeometry, out_height: int) -> int:
    """Images of one task of ``positions``: products of 128 rows keep BLAS busy, 64 where there would be few tasks."""
    return 128 if -(-g.batch // 128) * out_height >= 4 else 64


def _tile_rows(out_rows: int, out_width: int, depth: int, itemsize: int) -> int:
    return max(1, min(out_rows, _TILE_BYTES // (out_width * depth * itemsize)))


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Conv2dGeometry) -> np.ndarray:
    """The forward pass of :func:`gpunet.ops.conv2d.conv2d`."""
    x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
    taps_y, taps_x = tap_tables(g)[0]
    y = np.empty(g.y_shape, x.dtype)
    run = g.kernel[1] if g.dilation[1] == 1 and g.groups == 1 else 1
    algorithm = _choose(g, depth=run * g.weight_shape[2])
    if algorithm == "direct":
        _direct(x, weight, 0, taps_y, taps_x, g.groups, y)
    elif algorithm == "positions":
        block = _image_block(g, g.out_height)
        _positions(gemm_address(x.dtype), x, weight, 0, taps_y, taps_x, g.groups, block, y)
    else:
        depth = g.kernel[0] * g.kernel[1] * g.weight_shape[2]
        rows = _tile_rows(g.batch * g.out_height, g.out_width, depth, x.itemsize)
        _im2col(gemm_address(x.dtype), x, weight, taps_y, taps_x, g.groups, rows, y)
    if bias is not None:
        y += bias
    return y


def conv2d_backward_x(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """The gradient of the input: the convolution of `dy` along the inverted tables with transposed weights."""
    dy, weight = np.ascontiguousarray(dy), np.ascontiguousarray(weight)
    taps_y, taps_x = tap_tables(g)[1]
    dx = np.empty(g.x_shape, dy.dtype)
    outer = g.out_channels // g.groups
    algorithm = _choose(g, depth=outer)
    if algorithm == "direct":
        _direct(dy, weight, 1, taps_y, taps_x, g.groups, dx)
    elif algorithm == "positions":
        _positions(gemm_address(dy.dtype), dy, weight, 1, taps_y, taps_x, g.groups, _image_block(g, g.height), dx)
    else:
        split = weight.reshape(*g.kernel, g.weight_shape[2], g.groups, outer)
        transposed = np.ascontiguousarray(split.transpose(0, 1, 4, 3, 2)).reshape(*g.kernel, outer, g.in_channels)
        depth = g.kernel[0] * g.kernel[1] * outer
        rows = _tile_rows(g.batch * g.height, g.width, depth, dy.itemsize)
        _im2col(gemm_address(dy.dtype), dy, transposed, taps_y, taps_x, g.groups, rows, dx)
    return dx


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, g: Conv2dGeometry, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient of the weights, in `out` if given."""
    dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
    taps_y, taps_x = tap_tables(g)[0]
    dweight = np.empty(g.weight_shape, x.dtype) if out is None else out
    algorithm = _choose(g, depth=g.weight_shape[2])
    if algorithm == "direct":
        _direct_weight(x, dy, taps_y, taps_x, g.groups, dweight)
        return dweight
    # Large maps: long im2col products. Small maps: few positions, and padding taps that are worth skipping.
    if algorithm == "positions" and g.out_height * g.out_width <= 16:
        _positions_weight(gemm_address(x.dtype), x, dy, taps_y, taps_x, g.groups, 128, dweight)
        return dweight
    depth = g.kernel[0] * g.kernel[1] * g.weight_shape[2]
    out_rows = g.batch * g.out_height
    pieces = min(_PIECES, out_rows)
    rows = _tile_rows(-(-out_rows // pieces), g.out_width, depth, x.itemsize)
    partial = np.empty((pieces, depth, g.out_channels), x.dtype)
    _im2col_weight(gemm_address(x.dtype), x, dy, taps_y, taps_x, g.groups, rows, partial)
    _add_pieces(partial.reshape(pieces, -1), dweight.reshape(-1))
    return dweight


def conv2d_backward_bias(dy: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient of the bias: the sum over images and positions; in `out` if given."""
    return column_sums(np.ascontiguousarray(dy).reshape(-1, dy.shape[-1]), out)
