# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs
# mypy: no-warn-unreachable, disable-error-code="call-arg"
# Numba kernels take no annotations: Numba infers the types.
"""3x3 convolution by Winograd's minimal filtering: fewer multiplications than the definition has.

The output is cut into tiles of m x m. A tile of the input, (m + 2) x (m + 2), and the weights are transformed to values
at (m + 2)^2 points, where convolution is a matrix product over the channels for each point; the products are
transformed back. The gradient of the weights does the same with the roles exchanged. F(4x4, 3x3) needs 36 products
where the definition needs 144, F(3x3, 3x3) 25 where it needs 81.

The transforms enlarge rounding errors: in float32 the largest were 4 to 15 times those of plain sums on the maps of the
default network.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._simd import BLOCK_BYTES, VECTOR_BYTES, add_outer_products, multiples, scratch, two_sided_product
from gpunet.ops.conv2d._cook_toom import Matrix, minimal_filter, transposed
from gpunet.ops.geometry import Conv2dGeometry

_TILES = 24
"""Tiles of a task of a convolution: their values at all points stay in the L2 cache."""
_ENOUGH_TILES = 20
"""Tiles from which on a transform of the weights pays (measured on Zen 3)."""
_CHUNK = 256
"""Tiles of which the gradient of the weights adds up products at a time: as many as fit into the L1 cache."""


def _product(matrix: Matrix) -> Any:
    return two_sided_product([[float(entry) for entry in row] for row in matrix])


_F3, _F4 = minimal_filter(3), minimal_filter(4)
_inputs_3, _inputs_4 = _product(_F3.inputs), _product(_F4.inputs)
_taps_3, _taps_4 = _product(_F3.taps), _product(_F4.taps)
_outputs_3, _outputs_4 = _product(_F3.outputs), _product(_F4.outputs)
_output_gradients_3, _output_gradients_4 = _product(transposed(_F3.outputs)), _product(transposed(_F4.outputs))
_tap_gradients_3, _tap_gradients_4 = _product(transposed(_F3.taps)), _product(transposed(_F4.taps))


@jit
def _transform_inputs(m, source, at, places, target, to, target_places, length):
    if m == 3:
        _inputs_3(source, at, places, target, to, target_places, length)
    else:
        _inputs_4(source, at, places, target, to, target_places, length)


@jit
def _transform_taps(m, source, at, places, target, to, target_places, length):
    if m == 3:
        _taps_3(source, at, places, target, to, target_places, length)
    else:
        _taps_4(source, at, places, target, to, target_places, length)


@jit
def _transform_outputs(m, source, at, places, target, to, target_places, length):
    if m == 3:
        _outputs_3(source, at, places, target, to, target_places, length)
    else:
        _outputs_4(source, at, places, target, to, target_places, length)


@jit
def _transform_output_gradients(m, source, at, places, target, to, target_places, length):
    if m == 3:
        _output_gradients_3(source, at, places, target, to, target_places, length)
    else:
        _output_gradients_4(source, at, places, target, to, target_places, length)


@jit
def _transform_tap_gradients(m, source, at, places, target, to, target_places, length):
    if m == 3:
        _tap_gradients_3(source, at, places, target, to, target_places, length)
    else:
        _tap_gradients_4(source, at, places, target, to, target_places, length)


class _Tiling(NamedTuple):
    """Where the entries of each tile lie in an image, -1 for those outside."""

    m: int
    inputs: np.ndarray
    """(tiles, (m + 2)^2)"""
    outputs: np.ndarray
    """(tiles, m^2)"""


def tile_size(height: int, width: int) -> int:
    """The m of F(m x m, 3x3) that needs fewer multiplications for a map of this size."""

    def products(m: int) -> int:
        return (-(-height // m) * (m + 2)) * (-(-width // m) * (m + 2))

    return min((4, 3), key=products)


@functools.lru_cache(maxsize=256)
def _tiling(m: int, g: Conv2dGeometry) -> _Tiling:
    first_i, first_j = (grid.reshape(-1, 1, 1) for grid in np.mgrid[0 : g.out_height : m, 0 : g.out_width : m])

    def places(size: int, top: int, left: int, height: int, width: int, channels: int) -> np.ndarray:
        i, j = first_i - top + np.arange(size)[:, None], first_j - left + np.arange(size)[None, :]
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        return np.where(inside, (i * width + j) * channels, -1).reshape(len(first_i), -1)

    return _Tiling(
        m,
        places(m + 2, g.padding[0], g.padding[2], g.height, g.width, g.in_channels),
        places(m, 0, 0, g.out_height, g.out_width, g.out_channels),
    )


@parallel_jit
def _transformed_weights(m, weight, result):
    """result[panel, point, c, :]: the weights at each point, in panels of BLOCK_BYTES of output channels."""
    _, _, channels, out_channels = weight.shape
    panels, points, _, block = result.shape
    flat_weight, flat_result = weight.reshape(-1), result.reshape(-1)
    taps, places = multiples(9, channels * out_channels), multiples(points, channels * block)
    for c in prange(channels):
        for panel in range(panels):
            at, to = c * out_channels + panel * block, (panel * points * channels + c) * block
            _transform_taps(m, flat_weight, at, taps, flat_result, to, places, block)


@parallel_jit
def _convolution(x, weights, tiling, nothing, y):
    """y = convolution of x with the transformed weights; `nothing` is a row of zeros."""
    batch, channels = x.shape[0], x.shape[3]
    panels, points, _, block = weights.shape
    m, tiles = tiling.m, tiling.inputs.shape[0]
    flat_x, flat_weights, flat_y = x.reshape(-1), weights.reshape(-1), y.reshape(-1)
    x_image, y_image = x.size // batch, y.size // batch
    total = batch * tiles
    depth, places, input_places = multiples(channels, 1), multiples(points, block), multiples(points, _TILES * channels)
    for task in prange((total + _TILES - 1) // _TILES):
        values, products = scratch(points * _TILES * channels, x), scratch(_TILES * points * block, x)
        first = task * _TILES
        for k in range(_TILES):
            n, tile = min(first + k, total - 1) // tiles, min(first + k, total - 1) % tiles
            _transform_inputs(m, flat_x, n * x_image, tiling.inputs[tile], values, k * channels, input_places, channels)
        for panel in range(panels):
            for point in range(points):
                for k in range(0, _TILES, 6):
                    at = (point * _TILES + k) * channels
                    rows = (
                        *(at, at + channels, at + 2 * channels),
                        *(at + 3 * channels, at + 4 * channels, at + 5 * channels),
                    )
                    add_outer_products(
                        *(values, rows, depth),
                        *(flat_weights, (panel * points + point) * channels * block, block),
                        *(nothing, 0, 0),
                        *(products, (k * points + point) * block, points * block),
                    )
            for k in range(min(_TILES, total - first)):
                n, tile = (first + k) // tiles, (first + k) % tiles
                to = n * y_image + panel * block
                _transform_outputs(m, products, k * points * block, places, flat_y, to, tiling.outputs[tile], block)


@parallel_jit
def _weight_gradient(x, dy, tiling, at_points, dweight):
    """dweight; `at_points`, (points, C_in, C_out) of zeros, becomes the gradient of the transformed weights."""
    batch, channels, out_channels = x.shape[0], x.shape[3], dy.shape[3]
    points, m, tiles = at_points.shape[0], tiling.m, tiling.inputs.shape[0]
    lanes, block = VECTOR_BYTES // x.itemsize, BLOCK_BYTES // x.itemsize
    flat_x, flat_dy, flat_sums, flat_dweight = x.reshape(-1), dy.reshape(-1), at_points.reshape(-1), dweight.reshape(-1)
    x_image, dy_image = x.size // batch, dy.size // batch
    total, panels = batch * tiles, out_channels // block
    values, factors = scratch(points * channels * _CHUNK, x), scratch(points * out_channels * _CHUNK, x)
    value_places, factor_places = multiples(points, channels * _CHUNK), multiples(points, out_channels * _CHUNK)
    for first in range(0, total, _CHUNK):
        count = min(_CHUNK, total - first)
        for k in prange(count):
            n, tile = (first + k) // tiles, (first + k) % tiles
            for c in range(0, channels, lanes):  # [point, c // lanes, k, c % lanes]
                at, to = n * x_image + c, c * _CHUNK + k * lanes
                _transform_inputs(m, flat_x, at, tiling.inputs[tile], values, to, value_places, lanes)
            for o in range(0, out_channels, block):  # [point, o // block, k, o % block]
                at, to = n * dy_image + o, o * _CHUNK + k * block
                _transform_output_gradients(m, flat_dy, at, tiling.outputs[tile], factors, to, factor_places, block)
        depth = multiples(count, lanes)
        for task in prange(points * panels):
            point, panel = task // panels, task % panels
            factor = (point * out_channels + panel * block) * _CHUNK
            for c in range(0, channels, 4):
                at = (point * channels + c // lanes * lanes) * _CHUNK + c % lanes
                total_at = (point * channels + c) * out_channels + panel * block
                add_outer_products(
                    *(values, (at, at + 1, at + 2, at + 3), depth),
                    *(factors, factor, block),
                    *(flat_sums, total_at, out_channels),
                    *(flat_sums, total_at, out_channels),
                )
    size = channels * out_channels
    places, taps = multiples(points, size), multiples(9, size)
    for c in prange(channels):
        at = c * out_channels
        _transform_tap_gradients(m, flat_sums, at, places, flat_dweight, at, taps, out_channels)


def applies(g: Conv2dGeometry) -> bool:
    """Whether these functions can compute the convolution: 3x3, stride 1, no dilation, whole blocks of channels."""
    block = BLOCK_BYTES // np.dtype(np.float32).itemsize
    return (
        g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.groups == 1
        and g.in_channels % block == g.out_channels % block == 0
    )


def saves(g: Conv2dGeometry) -> bool:
    """Whether there are enough tiles for the transformed weights to pay."""
    m = tile_size(g.out_height, g.out_width)
    return g.batch * -(-g.out_height // m) * -(-g.out_width // m) >= _ENOUGH_TILES


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, g: Conv2dGeometry, y: np.ndarray) -> None:
    """y = convolution of x plus bias, (C_out,) or empty."""
    m, block = tile_size(g.out_height, g.out_width), BLOCK_BYTES // x.itemsize
    weights = aligned.empty((g.out_channels // block, (m + 2) ** 2, g.in_channels, block), x.dtype)
    _transformed_weights(m, weight, weights)
    _convolution(x, weights, _tiling(m, g), np.zeros(block, x.dtype), y)
    if bias.size:
        y += bias


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, in `dweight`."""
    m = tile_size(g.out_height, g.out_width)
    tiling = _tiling(m, g)
    at_points = aligned.zeros(((m + 2) ** 2, g.in_channels, g.out_channels), x.dtype)
    _weight_gradient(x, dy, tiling, at_points, dweight)
