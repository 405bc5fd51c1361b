"""Pooling on the GPU: one launch each of ``kernels/pool2d.cu``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import cuda
from gpunet.backend import Array
from gpunet.ops.geometry import Pool2dGeometry

_THREADS = 256
_FEW_TAPS = 64
"""Averages of so many float32 elements are summed in float32, longer ones in float64; `FEW_TAPS` in the source."""


def _is_long_global(g: Pool2dGeometry) -> bool:
    """Whether the only window is the whole map, of enough elements to share them out among threads."""
    return g.kernel == (g.height, g.width) and not any(g.padding) and g.height * g.width > _FEW_TAPS


def _launch(kernel: str, positions: int, g: Pool2dGeometry, real: Any, *args: Any) -> None:
    """A thread for up to four channels of each of `positions`."""
    grid = cuda.ceil_div(positions * cuda.ceil_div(g.channels, 4), _THREADS)
    cuda.launch("pool2d", kernel, grid, _THREADS, *args, real=real)


def _axes(g: Pool2dGeometry) -> tuple[int, ...]:
    """Both axes of a maximum, as its kernels take them."""
    rows = g.height, g.out_height, g.kernel[0], g.stride[0], g.padding[0], g.dilation[0]
    return *rows, g.width, g.out_width, g.kernel[1], g.stride[1], g.padding[2], g.dilation[1]


def _averaged_axes(g: Pool2dGeometry, count_include_pad: bool) -> tuple[int, ...]:
    """Both axes of an average, as its kernels take them: the last two are what counts of the padding."""
    top, bottom, left, right = g.padding if count_include_pad else (0, 0, 0, 0)
    rows = g.height, g.out_height, g.kernel[0], g.stride[0], g.padding[0], top, bottom
    return *rows, g.width, g.out_width, g.kernel[1], g.stride[1], g.padding[2], left, right


def _by_width(argmax: Array) -> tuple[Array | None, Array | None]:
    """`argmax` as the pair of arguments (uint8, int32) of which a kernel takes the one that is there."""
    return (argmax, None) if argmax.dtype == np.uint8 else (None, argmax)


def max_pool2d(x: Array, geometry: Pool2dGeometry, argmax_dtype: Any, *, relu: bool = False) -> tuple[Array, Array]:
    """With `relu`, for windows of 2x2 side by side only, y and argmax are 0 and 4 where the maximum is not positive."""
    assert geometry.tiles_2x2 or not relu
    g, x = geometry, cuda.contiguous(x)
    y, argmax = cuda.empty(g.y_shape, x.dtype, x), cuda.empty(g.y_shape, argmax_dtype, x)
    positions = g.batch * g.out_height * g.out_width
    if g.tiles_2x2:
        _launch("max_pool_2x2", positions, g, x.dtype, x, y, argmax, *g.x_shape, int(relu))
    else:
        _launch("max_pool", positions, g, x.dtype, x, y, *_by_width(argmax), g.batch, g.channels, *_axes(g))
    return y, argmax


def max_pool2d_backward(dy: Array, argmax: Array, geometry: Pool2dGeometry) -> Array:
    g, dy, argmax = geometry, cuda.contiguous(dy), cuda.contiguous(argmax)
    dx = cuda.empty(g.x_shape, dy.dtype, dy)
    if g.tiles_2x2:
        windows = g.batch * cuda.ceil_div(g.height, 2) * cuda.ceil_div(g.width, 2)  # halves at odd edges included
        _launch("max_pool_2x2_backward", windows, g, dy.dtype, dy, argmax, dx, *g.x_shape)
    else:
        args = dy, *_by_width(argmax), dx, g.batch, g.channels, *_axes(g)
        _launch("max_pool_backward", g.batch * g.height * g.width, g, dy.dtype, *args)
    return dx


def avg_pool2d(x: Array, geometry: Pool2dGeometry, count_include_pad: bool) -> Array:
    g, x = geometry, cuda.contiguous(x)
    y = cuda.empty(g.y_shape, x.dtype, x)
    positions = g.batch * g.out_height * g.out_width
    if g.tiles_2x2:
        _launch("avg_pool_2x2", positions, g, x.dtype, x, y, *g.x_shape)
    elif _is_long_global(g):
        grid = g.batch * cuda.ceil_div(g.channels, 32)
        cuda.launch("pool2d", "global_avg_pool", grid, (8, 32), x, y, g.height * g.width, g.channels, real=x.dtype)
    else:
        args = x, y, g.batch, g.channels, *_averaged_axes(g, count_include_pad)
        _launch("avg_pool", positions, g, x.dtype, *args)
    return y


def avg_pool2d_backward(dy: Array, geometry: Pool2dGeometry, count_include_pad: bool) -> Array:
    g, dy = geometry, cuda.contiguous(dy)
    dx = cuda.empty(g.x_shape, dy.dtype, dy)
    args = dy, dx, g.batch, g.channels, *_averaged_axes(g, count_include_pad)
    _launch("avg_pool_backward", g.batch * g.height * g.width, g, dy.dtype, *args)
    return dx
