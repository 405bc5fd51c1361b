"""Pooling by definition: slow, obviously correct, the oracle for all other implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpunet.ops.geometry import Padding, Pool2dGeometry
from gpunet.ops.pool2d import Size, argmax_dtype


def _windows(g: Pool2dGeometry) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Each output position (i, j) with the (tap, row, column) of its window that are inside the map, row-major."""
    for i in range(g.out_height):
        for j in range(g.out_width):
            window = []
            for p in range(g.kernel[0]):
                for q in range(g.kernel[1]):
                    row = i * g.stride[0] - g.padding[0] + p * g.dilation[0]
                    column = j * g.stride[1] - g.padding[2] + q * g.dilation[1]
                    if 0 <= row < g.height and 0 <= column < g.width:
                        window.append((p * g.kernel[1] + q, row, column))
            yield i, j, window


def max_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """See :func:`gpunet.ops.pool2d.max_pool2d`."""
    g = Pool2dGeometry.of(x.shape, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    y = np.full(g.y_shape, -np.inf, x.dtype)
    argmax = np.zeros(g.y_shape, argmax_dtype(g))
    for i, j, window in _windows(g):
        for k, (tap, row, column) in enumerate(window):
            value = x[:, row, column]
            wins = (value > y[:, i, j]) | np.isnan(value) | (k == 0)
            y[:, i, j][wins] = value[wins]
            argmax[:, i, j][wins] = tap
    return y, argmax


def max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x_shape: Sequence[int],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> np.ndarray:
    """See :func:`gpunet.ops.pool2d.max_pool2d_backward`."""
    g = Pool2dGeometry.of(x_shape, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    dx = np.zeros(g.x_shape, dy.dtype)
    for i, j, window in _windows(g):
        for tap, row, column in window:
            won = argmax[:, i, j] == tap
            dx[:, row, column][won] += dy[:, i, j][won]
    return dx


def _divisor(g: Pool2dGeometry, i: int, j: int, inside: int, count_include_pad: bool) -> int:
    if not count_include_pad:
        return inside
    lengths = []
    for axis, (position, size) in enumerate(((i, g.height), (j, g.width))):
        before, after = g.padding[2 * axis : 2 * axis + 2]
        start = position * g.stride[axis] - before
        lengths.append(min(start + g.kernel[axis], size + after) - start)
    return lengths[0] * lengths[1]


def avg_pool2d(
    x: np.ndarray,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """See :func:`gpunet.ops.pool2d.avg_pool2d`."""
    g = Pool2dGeometry.of(x.shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    y = np.zeros(g.y_shape, x.dtype)
    for i, j, window in _windows(g):
        for _, row, column in window:
            y[:, i, j] += x[:, row, column]
        y[:, i, j] /= _divisor(g, i, j, len(window), count_include_pad)
    return y


def avg_pool2d_backward(
    dy: np.ndarray,
    x_shape: Sequence[int],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> np.ndarray:
    """See :func:`gpunet.ops.pool2d.avg_pool2d_backward`."""
    g = Pool2dGeometry.of(x_shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    dx = np.zeros(g.x_shape, dy.dtype)
    for i, j, window in _windows(g):
        for _, row, column in window:
            dx[:, row, column] += dy[:, i, j] / _divisor(g, i, j, len(window), count_include_pad)
    return dx


def global_avg_pool2d(x: np.ndarray) -> np.ndarray:
    """See :func:`gpunet.ops.pool2d.global_avg_pool2d`."""
    mean: np.ndarray = x.mean((1, 2))
    return mean


def global_avg_pool2d_backward(dy: np.ndarray, x_shape: Sequence[int]) -> np.ndarray:
    """See :func:`gpunet.ops.pool2d.global_avg_pool2d_backward`."""
    _, height, width, _ = x_shape
    return np.broadcast_to(dy[:, None, None] / (height * width), tuple(x_shape)).copy()
