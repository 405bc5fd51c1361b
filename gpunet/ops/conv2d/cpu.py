"""Convolution on the CPU. Four ways to compute it, chosen from the shapes alone by :func:`_choose`:

``rows``
    Sums in registers over input rows in the L1 cache. Best where the weights are few, as in the first layers.
``positions``
    One matrix product over the images for each output position and tap. Best for batches of small maps of many
    channels.
``im2col``
    Matrix products over tiles of patches. Best for small batches, and for the weights of large maps.
``direct``
    Plain loops, for groups of so few channels that a call of BLAS would cost more than its work.

The last three are driven by the tables of :mod:`gpunet.ops.conv2d._taps`: there, the gradient of the input is the same
computation with the roles of the maps exchanged, the tables inverted and the weights transposed.
"""

from __future__ import annotations

import numpy as np

from gpunet.ops._blas import gemm_address
from gpunet.ops._reduce import column_sums
from gpunet.ops.conv2d import _direct, _im2col, _positions, _rows
from gpunet.ops.conv2d._sums import add_pieces
from gpunet.ops.conv2d._taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_FEW_WEIGHTS, _MANY_WEIGHTS = 2**13, 2**15
_SMALL_MAP, _LARGE_MAP, _LARGE_BATCH = 25, 128, 64
"""``rows`` is chosen for _FEW_WEIGHTS weights on maps of _SMALL_MAP output positions, and for _MANY_WEIGHTS on maps of
_LARGE_MAP: there it was the fastest at batches of 1 to 512 (measured on Zen 3). Only the forward pass of many weights
and a _LARGE_BATCH was faster by ``positions``."""
_TILE_BYTES = 192 * 1024
"""An im2col tile: well inside the L2 cache of any x86-64 core of the last ten years, with room for the weights."""
_PIECES = 16
"""Partial sums of the im2col weight gradient: a constant, so that results do not depend on the number of threads."""


def _choose(direction: str, g: Conv2dGeometry) -> str:
    """The algorithm of ``"forward"``, ``"backward_x"`` or ``"backward_weight"``."""
    inner, outer = g.weight_shape[2], g.out_channels // g.groups
    if g.groups > 1 and inner * outer <= 64:
        return "direct"
    positions = g.out_height * g.out_width
    large = positions >= _LARGE_MAP and not (direction == "forward" and g.batch >= _LARGE_BATCH)
    few = _MANY_WEIGHTS if large else _FEW_WEIGHTS
    if g.groups == 1 and positions >= _SMALL_MAP and g.kernel[0] * g.kernel[1] * inner * outer <= few:
        return "rows"
    # What each product of ``positions`` adds up, or for the weights the rows that it has.
    depth = {"forward": _run(g) * inner, "backward_x": outer, "backward_weight": inner}[direction]
    if g.batch < 16 or depth < 32:
        return "im2col"
    # Large maps: long im2col products. Small maps: few positions, and padding taps that are worth skipping.
    return "im2col" if direction == "backward_weight" and positions > 16 else "positions"


def _run(g: Conv2dGeometry) -> int:
    """Taps that lie side by side in the map and in the weights."""
    return g.kernel[1] if g.dilation[1] == 1 and g.groups == 1 else 1


def _image_block(g: Conv2dGeometry, out_height: int) -> int:
    """Images of one task of ``positions``: products of 128 rows keep BLAS busy, 64 where there would be few tasks."""
    return 128 if -(-g.batch // 128) * out_height >= 4 else 64


def _tile_rows(out_rows: int, out_width: int, depth: int, itemsize: int) -> int:
    return max(1, min(out_rows, _TILE_BYTES // (out_width * depth * itemsize)))


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Conv2dGeometry) -> np.ndarray:
    """The forward pass of :func:`gpunet.ops.conv2d.conv2d`."""
    x, weight = np.ascontiguousarray(x), np.ascontiguousarray(weight)
    bias = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    taps_y, taps_x = tap_tables(g)[0]
    y = np.empty(g.y_shape, x.dtype)
    algorithm = _choose("forward", g)
    if algorithm == "rows":
        _rows.convolution(x, weight, bias, g, y)
    elif algorithm == "direct":
        _direct.convolution(x, weight, 0, bias, taps_y, taps_x, g.groups, y)
    elif algorithm == "positions":
        block = _image_block(g, g.out_height)
        _positions.convolution(gemm_address(x.dtype), x, weight, 0, bias, taps_y, taps_x, g.groups, block, y)
    else:
        depth = g.kernel[0] * g.kernel[1] * g.weight_shape[2]
        rows = _tile_rows(g.batch * g.out_height, g.out_width, depth, x.itemsize)
        _im2col.convolution(gemm_address(x.dtype), x, weight, bias, taps_y, taps_x, g.groups, rows, y)
    return y


def conv2d_backward_x(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """The gradient of the input."""
    dy, weight = np.ascontiguousarray(dy), np.ascontiguousarray(weight)
    no_bias = np.empty(0, dy.dtype)
    taps_y, taps_x = tap_tables(g)[1]
    dx = np.empty(g.x_shape, dy.dtype)
    algorithm = _choose("backward_x", g)
    if algorithm == "rows":
        _rows.input_gradient(dy, weight, g, dx)
    elif algorithm == "direct":
        _direct.convolution(dy, weight, 1, no_bias, taps_y, taps_x, g.groups, dx)
    elif algorithm == "positions":
        block = _image_block(g, g.height)
        _positions.convolution(gemm_address(dy.dtype), dy, weight, 1, no_bias, taps_y, taps_x, g.groups, block, dx)
    else:
        outer = g.out_channels // g.groups
        split = weight.reshape(*g.kernel, g.weight_shape[2], g.groups, outer)
        transposed = np.ascontiguousarray(split.transpose(0, 1, 4, 3, 2)).reshape(*g.kernel, outer, g.in_channels)
        depth = g.kernel[0] * g.kernel[1] * outer
        rows = _tile_rows(g.batch * g.height, g.width, depth, dy.itemsize)
        _im2col.convolution(gemm_address(dy.dtype), dy, transposed, no_bias, taps_y, taps_x, g.groups, rows, dx)
    return dx


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, g: Conv2dGeometry, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient of the weights, in `out` if given."""
    dy, x = np.ascontiguousarray(dy), np.ascontiguousarray(x)
    taps_y, taps_x = tap_tables(g)[0]
    dweight = np.empty(g.weight_shape, x.dtype) if out is None else out
    algorithm = _choose("backward_weight", g)
    if algorithm == "rows":
        _rows.weight_gradient(x, dy, g, dweight)
    elif algorithm == "direct":
        _direct.weight_gradient(x, dy, taps_y, taps_x, g.groups, dweight)
    elif algorithm == "positions":
        _positions.weight_gradient(gemm_address(x.dtype), x, dy, taps_y, taps_x, g.groups, 128, dweight)
    else:
        depth = g.kernel[0] * g.kernel[1] * g.weight_shape[2]
        out_rows = g.batch * g.out_height
        pieces = min(_PIECES, out_rows)
        rows = _tile_rows(-(-out_rows // pieces), g.out_width, depth, x.itemsize)
        partial = np.empty((pieces, depth, g.out_channels), x.dtype)
        _im2col.partial_weight_gradients(gemm_address(x.dtype), x, dy, taps_y, taps_x, g.groups, rows, partial)
        add_pieces(partial.reshape(pieces, -1), dweight.reshape(-1))
    return dweight


def conv2d_backward_bias(dy: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient of the bias: the sum over images and positions; in `out` if given."""
    return column_sums(np.ascontiguousarray(dy).reshape(-1, dy.shape[-1]), out)
