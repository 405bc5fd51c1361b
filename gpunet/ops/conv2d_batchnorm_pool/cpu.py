"""A network's first block on the CPU, without storing the convolution, which is many times as large as its input.

The convolution is linear in the K inputs of a patch, so sums over it follow from sums over patches. With p the inputs
of a patch and 1, the matrix A = sum of p p^T over all positions, and w a filter, the sum of the convolution is w^T A 1
and that of its square w^T A w: its mean and variance. Backward, the gradient d of the normalised map is not zero only
at the maxima. Of it, only T = sum of p d^T is needed:

    dbeta = T_1, dgamma = (w^T T - mean dbeta) / std,
    dw = gamma / std (T - A 1 dbeta / N - (A w - mean A 1) dgamma / (std N)),

which is batch norm's gradient, summed over patches before it is multiplied out. A is summed in float64, so that for
float32 inputs a mean much larger than the deviations from it does no harm.

A itself has a structure: the entry of two taps is a sum over rows of the padded image, and what a row adds is the same
for all taps that are as many rows apart. So it is summed for each row first, then for each tap over the rows it sees.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import clear_elements
from gpunet.ops._simd import (
    MANY_REGISTERS,
    PANEL_BYTES,
    PANEL_VECTORS,
    VECTOR_BYTES,
    micro_kernel,
    multiples,
    narrow_micro_kernel,
    positions_of_rows,
    scratch,
)
from gpunet.ops._window import pool_window, unpool_window
from gpunet.ops.batchnorm import cpu as batchnorm
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.conv2d_batchnorm_pool import ConvBatchNormMaxPoolSaved
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry

_PARTS = 32
"""Parts of a batch whose sums are added up in order; a constant, so that results do not depend on the threads."""
_POSITION_ROWS = 14 if MANY_REGISTERS else 6
"""Rows of the register tile of the convolution: positions of an output row."""
_TAP_ROWS = (0,) * (10 if MANY_REGISTERS else 5)
"""Rows of that of sums over patches: inputs of a patch, and 1. Only the length counts, known when it is compiled."""
_position_tile = micro_kernel(PANEL_VECTORS, _POSITION_ROWS)
_tap_tile = micro_kernel(PANEL_VECTORS)


class _Layout(NamedTuple):
    """An image with its padding, packed as planes of the input channels and one of ones."""

    top: int
    left: int
    """Rows of padding at the top, and columns at the left."""
    height: int
    width: int
    """Rows and columns that patches see."""
    plane: int
    """Elements of a plane."""
    size: int
    """Elements of all planes, with room for what is read, but not used, after the last position."""
    windows: np.ndarray
    """Offset of each position of two rows of windows."""
    taps: np.ndarray
    """Offset of each input of a patch and of a one, from that of the position; padded to rows of the register tile."""


@functools.lru_cache(maxsize=64)
def _layout(g: Conv2dGeometry) -> _Layout:
    (rows, columns), channels = g.kernel, g.in_channels
    height, width = g.out_height + rows - 1, g.out_width + columns - 1
    plane = (height + rows) * width  # more rows than there are, for products with what is not there
    p, q, c = np.ogrid[:rows, :columns, :channels]
    taps = (p * width + q + c * plane).reshape(-1)
    taps = np.append(taps, channels * plane)
    taps = np.pad(taps, (0, -len(taps) % len(_TAP_ROWS)))
    size = (channels + 1) * plane + 2 * VECTOR_BYTES
    i, j = np.ogrid[:2, : g.out_width // 2 * 2]
    return _Layout(g.padding[0], g.padding[2], height, width, plane, size, (i * width + j).reshape(-1), taps)


@jit
def _pack_image(x, n, layout, planes):
    """Image n of x, (N, H, W, C), as `layout` says."""
    _, height, width, channels = x.shape
    top, left = layout.top, layout.left
    clear_elements(planes, 0, channels * layout.plane)
    for i in range(max(0, -top), min(height, layout.height - top)):
        for c in range(channels):
            to = c * layout.plane + (i + top) * layout.width + left
            for j in range(max(0, -left), min(width, layout.width - left)):
                planes[to + j] = x[n, i, j, c]
    for k in range(channels * layout.plane, layout.size):
        planes[k] = 1


@jit
def _row_products(x, layout, out_width, partial):
    """partial[part, row, channel, block]: (taps, columns), sums of products of inputs in two rows of padded images.

    The left factor is the input of a patch that starts in this row, the right one a channel's in the row itself, in
    blocks of a vector of columns. `partial` must be zero on entry.
    """
    parts, rows, channels, column_blocks, tap_count, lanes = partial.shape
    batch, flat = x.shape[0], partial.reshape(-1)
    for part in prange(parts):
        planes, positions = scratch(layout.size, partial), multiples(out_width, 1)
        for n in range(part * batch // parts, (part + 1) * batch // parts):
            _pack_image(x, n, layout, planes)
            for row in range(rows):
                for block in range(channels * column_blocks):
                    right = block // column_blocks * layout.plane + row * layout.width + block % column_blocks * lanes
                    to = ((part * rows + row) * channels * column_blocks + block) * tap_count * lanes
                    for first in range(0, tap_count, len(_TAP_ROWS)):
                        taps: Any = positions_of_rows(row * layout.width, layout.taps, first, _TAP_ROWS)
                        total = flat, to + first * lanes, lanes
                        narrow_micro_kernel(*(planes, taps, positions, planes, right, 1), *total, *total)


@jit
def _add_parts(partial):
    """The sums over all parts, in the first one."""
    parts, rows = partial.shape[:2]
    for row in prange(rows):
        total = partial[0, row].reshape(-1)
        for part in range(1, parts):
            values = partial[part, row].reshape(-1)
            for k in range(total.size):
                total[k] += values[k]


@jit
def _assemble(by_row, kernel, out_height, products):
    """`products` (K + 1, K + 1) but the last entry, of those of two rows, [row, channel, block, tap, lane].

    Of two inputs of a patch the one in the later row is left, the other one right.
    """
    _, channels, _, _, lanes = by_row.shape
    rows, columns = kernel
    inner = columns * channels
    count = rows * inner
    for p in range(rows):
        for j in range(inner):
            column, channel, right = j // channels, j % channels, p * inner + j
            later = count - p * inner
            for k in range(later + 1):
                tap, left = (k, p * inner + k) if k < later else (count, count)  # the last one is 1
                total = 0.0
                for row in range(p, p + out_height):
                    total += by_row[row, channel, column // lanes, tap, column % lanes]
                products[left, right] = products[right, left] = total


def _patch_products(x: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """A, float64 (K + 1, K + 1)."""
    layout, (rows, columns), lanes = _layout(g), g.kernel, VECTOR_BYTES // 8
    blocks, count = -(-columns // lanes), rows * columns * g.in_channels
    shape = min(_PARTS, g.batch), layout.height, g.in_channels, blocks, len(layout.taps), lanes
    partial, products = aligned.zeros(shape, np.dtype(np.float64)), np.empty((count + 1, count + 1))
    _row_products(x, layout, g.out_width, partial)
    _add_parts(partial)
    _assemble(partial[0], g.kernel, g.out_height, products)
    products[count, count] = math.prod(g.y_shape[:3])
    return products


@jit
def _normalised_and_pooled(x, weight, offset, layout, terms, relu, y, argmax):
    """`weight` is flat (K, C), padded to whole panels and scaled, `offset` (C,) what is to be added to the sums."""
    batch, out_height, out_width, channels = y.shape
    panel_width, lanes, padded = PANEL_BYTES // x.itemsize, VECTOR_BYTES // x.itemsize, offset.size
    flat_y, flat_argmax = y.reshape(-1), argmax.reshape(-1)
    room = (2 * out_width + _POSITION_ROWS - 1) // _POSITION_ROWS * _POSITION_ROWS
    for n in prange(batch):
        planes, values = scratch(layout.size, x), scratch(2 * room * panel_width, x)
        last, last_taps = scratch(panel_width, x), scratch(panel_width, argmax)  # if channels do not fill a panel
        _pack_image(x, n, layout, planes)
        for i in range(out_height):
            for first in range(0, padded, panel_width):
                for half in range(2):
                    for j in range(0, room, _POSITION_ROWS):
                        _position_tile(
                            *(planes, (2 * i + half) * layout.width + j, terms, weight, first, padded),
                            *(offset, first, 0, values, (half * room + j) * panel_width, panel_width),
                        )
                count, to = min(panel_width, channels - first), (n * out_height + i) * out_width * channels + first
                target, taps = (flat_y, flat_argmax) if count == panel_width else (last, last_taps)
                for j in range(out_width):
                    at = to + j * channels if count == panel_width else 0
                    for lane in range(0, panel_width, lanes):
                        window = values, 2 * j * panel_width + lane, panel_width, room * panel_width
                        pool_window(*window, relu, target, at + lane, taps, at + lane)
                    for c in range(count if count < panel_width else 0):
                        flat_y[to + j * channels + c], flat_argmax[to + j * channels + c] = last[c], last_taps[c]


@jit
def _patch_gradients(x, dy, argmax, layout, positions, partial):
    """partial[part], float64 (taps, C): T of some images, with C padded to whole panels; zero on entry."""
    parts, tap_count, padded = partial.shape
    batch, out_height, out_width, channels = dy.shape
    panel_width, lanes = PANEL_BYTES // x.itemsize, VECTOR_BYTES // x.itemsize
    flat_dy, flat_argmax = dy.reshape(-1), argmax.reshape(-1)
    for part in prange(parts):
        planes, sums = scratch(layout.size, x), scratch(tap_count * padded, x)
        rows = scratch(4 * out_width * panel_width, x)  # two, of the gradient of the normalised map
        last, last_taps = scratch(panel_width, x), scratch(panel_width, argmax)  # if channels do not fill a panel
        for n in range(part * batch // parts, (part + 1) * batch // parts):
            _pack_image(x, n, layout, planes)
            clear_elements(sums, 0, tap_count * padded)
            for i in range(out_height):
                for panel in range(0, padded, panel_width):
                    count = min(panel_width, channels - panel)
                    source, source_taps = (flat_dy, flat_argmax) if count == panel_width else (last, last_taps)
                    for j in range(out_width):
                        at = ((n * out_height + i) * out_width + j) * channels + panel
                        for c in range(panel_width if count < panel_width else 0):
                            last[c] = flat_dy[at + c] if c < count else 0
                            last_taps[c] = flat_argmax[at + c] if c < count else 0
                        at = at if count == panel_width else 0
                        for lane in range(0, panel_width, lanes):
                            window = rows, 2 * j * panel_width + lane, panel_width, 2 * out_width * panel_width
                            unpool_window(source, at + lane, source_taps, at + lane, *window)
                    for first in range(0, tap_count, len(_TAP_ROWS)):
                        taps: Any = positions_of_rows(2 * i * layout.width, layout.taps, first, _TAP_ROWS)
                        total = sums, first * padded + panel, padded
                        _tap_tile(*(planes, taps, positions, rows, 0, panel_width), *total, *total)
            for t in range(tap_count):
                for c in range(padded):
                    partial[part, t, c] += sums[t * padded + c]


@jit
def _statistics(products, filters, mean, var):
    """Mean and variance of the convolution, float64 (C,), with the `filters` (K, C)."""
    count, channels = filters.shape
    positions = products[count, count]
    for c in range(channels):
        mean[c] = var[c] = 0.0
    for t in range(count):
        for c in range(channels):
            mean[c] += products[count, t] / positions * filters[t, c]
    for t in range(count):
        for u in range(count):  # of deviations of the inputs from their means: no difference of two large numbers
            covariance = products[t, u] / positions - products[count, t] / positions * (products[count, u] / positions)
            for c in range(channels):
                var[c] += covariance * filters[u, c] * filters[t, c]
    for c in range(channels):
        var[c] = max(var[c], 0.0) if var[c] == var[c] else var[c]


@jit
def _scale(filters, scale, offset, weight, added):
    """`filters` (K, C), scaled, in `weight`, and `offset` in `added`, whose C is padded by zeros."""
    count, channels = filters.shape
    for c in range(added.size):
        added[c] = offset[c] if c < channels else 0
        for t in range(count):
            weight[t, c] = filters[t, c] * scale[c] if c < channels else 0


@jit
def _add_up(partial, filters, mean, inv_std, found, dgamma, dbeta):
    """T in partial[0], and in `found`, float64 (2, C), dbeta and the sum of d times the convolution less its mean."""
    parts, _, _ = partial.shape
    count, channels = filters.shape
    for t in range(count + 1):
        for part in range(1, parts):
            for c in range(channels):
                partial[0, t, c] += partial[part, t, c]
    for c in range(channels):
        found[0, c] = partial[0, count, c]
        found[1, c] = -mean[c] * found[0, c]
    for t in range(count):
        for c in range(channels):
            found[1, c] += filters[t, c] * partial[0, t, c]
    for c in range(channels):
        dgamma[c], dbeta[c] = found[1, c] * inv_std[c], found[0, c]


@jit
def _weight_gradient(products, filters, of_patches, sums, positions, mean, inv_std, gamma, dweight):
    """`dweight` (K, C), from T and the `sums` of all parts of the batch, which have so many `positions`."""
    count, channels = filters.shape
    for t in range(count):
        total = products[count, t]
        for c in range(channels):
            centred = -total * mean[c]  # the sum of the input times the deviations of the convolution
            for u in range(count):
                centred += products[t, u] * filters[u, c]
            through = total * (sums[0, c] / positions) + centred * (sums[1, c] * inv_std[c] * inv_std[c] / positions)
            dweight[t, c] = gamma[c] * inv_std[c] * (of_patches[t, c] - through)


def _padded(channels: int, itemsize: int) -> int:
    """So many channels are whole panels."""
    return -(-channels * itemsize // PANEL_BYTES) * PANEL_BYTES // itemsize


def conv2d_batch_norm_max_pool(
    x: np.ndarray, weight: np.ndarray, parameters: BatchNormParameters, g: Conv2dGeometry, relu: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x, layout, filters = contiguous(x), _layout(g), contiguous(weight).reshape(-1, g.out_channels)
    products = _patch_products(x, g)
    mean, var = np.empty((2, g.out_channels))
    _statistics(products, filters, mean, var)
    mean, inv_std, scale, offset = batchnorm.of_statistics(mean, var, math.prod(g.y_shape[:3]), parameters)
    y_shape = Pool2dGeometry.of(g.y_shape, 2).y_shape
    y, argmax = aligned.empty(y_shape, x.dtype), aligned.empty(y_shape, np.dtype(np.uint8))
    padded = _padded(g.out_channels, x.itemsize)
    scaled, added = aligned.empty((len(filters), padded), x.dtype), np.empty(padded, x.dtype)
    _scale(filters, scale, offset, scaled, added)
    _normalised_and_pooled(x, scaled.reshape(-1), added, layout, layout.taps[: len(filters)], relu, y, argmax)
    return y, mean, inv_std, argmax, products


def conv2d_batch_norm_max_pool_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    gamma: np.ndarray,
    saved: ConvBatchNormMaxPoolSaved,
    g: Conv2dGeometry,
    out: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, dy, argmax, weight, gamma = map(contiguous, (x, dy, saved.argmax, weight, gamma))
    layout, filters = _layout(g), weight.reshape(-1, g.out_channels)
    shape = min(_PARTS, g.batch), len(layout.taps), _padded(g.out_channels, x.itemsize)
    partial = aligned.zeros(shape, np.dtype(np.float64))
    _patch_gradients(x, dy, argmax, layout, layout.windows, partial)
    like = weight.shape, gamma.shape, gamma.shape
    dweight, dgamma, dbeta = (
        np.empty(shape, x.dtype) if array is None else array for array, shape in zip(out, like, strict=True)
    )
    sums, positions = np.empty((2, g.out_channels)), math.prod(g.y_shape[:3])
    _add_up(partial, filters, saved.mean, saved.inv_std, sums, dgamma, dbeta)
    if saved.gather is not None:
        parts = saved.gather(sums)
        sums, positions = parts.sum(0), positions * len(parts)
    about = saved.mean, saved.inv_std, gamma
    _weight_gradient(saved.kept, filters, partial[0], sums, positions, *about, dweight.reshape(filters.shape))
    return dweight, dgamma, dbeta
