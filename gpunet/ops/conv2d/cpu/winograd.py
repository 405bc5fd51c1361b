"""3x3 convolution by Winograd's minimal filtering, with fewer multiplications than direct convolution.

The output is divided into tiles of m x m. The input tiles, (m + 2) x (m + 2), and the weights are transformed; in the
transformed domain, convolution is a matrix product over the channels at each of (m + 2)^2 points. The products are
transformed back. The gradient of the weights works the same way with the roles swapped. F(4x4, 3x3) takes 36
multiplications instead of 144, F(3x3, 3x3) 25 instead of 81.

The transforms amplify rounding errors: in float32, on the maps of the default network, the largest were 4 to 15 times
those of direct summation.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._simd import (
    PANEL_BYTES,
    VECTOR_BYTES,
    gemm_micro_kernel,
    multiples,
    positions_of_rows,
    scratch,
    winograd_transform,
)
from gpunet.ops.conv2d.cpu.cook_toom import Matrix, minimal_filter, transposed
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, finish, no_epilogue
from gpunet.ops.geometry import Conv2dGeometry

_TASK_TILES, _MAX_TASK_TILES = 24, 48
"""Tiles per task of a convolution, so that their transforms stay in the L2 cache."""
_TILE_ROWS = 6
"""Rows of the register tile: tiles of the maps."""
_ENOUGH_TILES = 20
"""Number of tiles from which the transform of the weights pays off (measured on Zen 3)."""
_CHUNK = 128
"""Tiles that the gradient of the weights accumulates at a time: more do not stay in the L2 cache."""
_GRADIENT_ROWS = (0,) * (8 if VECTOR_BYTES == 64 else 4)
"""As many entries as its register tile has rows, input channels: AVX-512 has registers for more of them."""


def _transform(matrix: Matrix) -> Any:
    return winograd_transform([[float(entry) for entry in row] for row in matrix])


_F3, _F4 = minimal_filter(3), minimal_filter(4)
_inputs_3, _inputs_4 = _transform(_F3.inputs), _transform(_F4.inputs)
_taps_3, _taps_4 = _transform(_F3.taps), _transform(_F4.taps)
_outputs_3, _outputs_4 = _transform(_F3.outputs), _transform(_F4.outputs)
_output_gradients_3, _output_gradients_4 = _transform(transposed(_F3.outputs)), _transform(transposed(_F4.outputs))
_tap_gradients_3, _tap_gradients_4 = _transform(transposed(_F3.taps)), _transform(transposed(_F4.taps))


@jit
def _transform_inputs(m, x, x_start, x_offsets, y, y_start, y_offsets, channels):
    if m == 3:
        _inputs_3(x, x_start, x_offsets, y, y_start, y_offsets, channels)
    else:
        _inputs_4(x, x_start, x_offsets, y, y_start, y_offsets, channels)


@jit
def _transform_taps(m, x, x_start, x_offsets, y, y_start, y_offsets, channels):
    if m == 3:
        _taps_3(x, x_start, x_offsets, y, y_start, y_offsets, channels)
    else:
        _taps_4(x, x_start, x_offsets, y, y_start, y_offsets, channels)


@jit
def _transform_outputs(m, x, x_start, x_offsets, y, y_start, y_offsets, channels):
    if m == 3:
        _outputs_3(x, x_start, x_offsets, y, y_start, y_offsets, channels)
    else:
        _outputs_4(x, x_start, x_offsets, y, y_start, y_offsets, channels)


@jit
def _transform_output_gradients(m, x, x_start, x_offsets, y, y_start, y_offsets, channels):
    if m == 3:
        _output_gradients_3(x, x_start, x_offsets, y, y_start, y_offsets, channels)
    else:
        _output_gradients_4(x, x_start, x_offsets, y, y_start, y_offsets, channels)


@jit
def _transform_tap_gradients(m, x, x_start, x_offsets, y, y_start, y_offsets, channels):
    if m == 3:
        _tap_gradients_3(x, x_start, x_offsets, y, y_start, y_offsets, channels)
    else:
        _tap_gradients_4(x, x_start, x_offsets, y, y_start, y_offsets, channels)


class _Tiling(NamedTuple):
    """Offsets of each tile's elements in an image; -1 for those outside."""

    m: int
    inputs: np.ndarray
    """(tiles, (m + 2)^2)"""
    outputs: np.ndarray
    """(tiles, m^2)"""


def tile_size(height: int, width: int) -> int:
    """The m for which F(m x m, 3x3) takes fewer multiplications on a map of this size."""

    def multiplications(m: int) -> int:
        return (-(-height // m) * (m + 2)) * (-(-width // m) * (m + 2))

    return min((4, 3), key=multiplications)


@functools.lru_cache(maxsize=256)
def _tiling(m: int, g: Conv2dGeometry, out_channels: int) -> _Tiling:
    """For outputs whose positions are `out_channels` apart."""
    first_i, first_j = (grid.reshape(-1, 1, 1) for grid in np.mgrid[0 : g.out_height : m, 0 : g.out_width : m])

    def offsets(size: int, top: int, left: int, height: int, width: int, channels: int) -> np.ndarray:
        i, j = first_i - top + np.arange(size)[:, None], first_j - left + np.arange(size)[None, :]
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        return np.where(inside, (i * width + j) * channels, -1).reshape(len(first_i), -1)

    return _Tiling(
        m,
        offsets(m + 2, g.padding[0], g.padding[2], g.height, g.width, g.in_channels),
        offsets(m, 0, 0, g.out_height, g.out_width, out_channels),
    )


@parallel_jit
def _transformed_weights(m, weight, result):
    """result[panel, point, c, :]: the transformed weights, in panels of PANEL_BYTES of output channels."""
    _, _, channels, out_channels = weight.shape
    panels, points, _, width = result.shape
    flat_weight, flat_result = weight.reshape(-1), result.reshape(-1)
    tap_offsets, point_offsets = multiples(9, channels * out_channels), multiples(points, channels * width)
    for c in prange(channels):
        for panel in range(panels):
            at, to = c * out_channels + panel * width, (panel * points * channels + c) * width
            _transform_taps(m, flat_weight, at, tap_offsets, flat_result, to, point_offsets, width)


@parallel_jit
def _convolution(x, weights, tiling, task_tiles, zeros, epilogue, y, out):
    """y = `epilogue` of the convolution of x with the transformed weights, without it of the shape `out`, (H, W, C).

    A task is `task_tiles` tiles, with an epilogue those of whole images. `zeros` is a zero panel row.
    """
    batch, channels = x.shape[0], x.shape[3]
    panels, points, group_channels, width = weights.shape
    group_panels = panels * group_channels // channels
    m, tiles = tiling.m, tiling.inputs.shape[0]
    flat_x, flat_weights, flat_y = x.reshape(-1), weights.reshape(-1), y.reshape(-1)
    x_image, y_image, map_size = x.size // batch, y.size // batch, out[0] * out[1] * width
    total, room = batch * tiles, (task_tiles + _TILE_ROWS - 1) // _TILE_ROWS * _TILE_ROWS
    depth, input_offsets = multiples(group_channels, 1), multiples(points, room * channels)
    product_offsets = multiples(points, width)
    finishing = epilogue.coefficients.size > 0
    for task in prange((total + task_tiles - 1) // task_tiles):
        inputs = scratch(points * room * channels, x)  # [point, tile, channel], transformed
        products = scratch(room * points * width, x)  # [tile, point, channel]
        maps = scratch(task_tiles // tiles * map_size if finishing else 0, x)  # a panel of channels
        first = task * task_tiles
        count = min(task_tiles, total - first)
        for k in range(room):
            n, tile = (first + min(k, count - 1)) // tiles, (first + min(k, count - 1)) % tiles
            to = k * channels
            _transform_inputs(m, flat_x, n * x_image, tiling.inputs[tile], inputs, to, input_offsets, channels)
        for panel in range(panels):
            for point in range(points):
                for k in range(0, room, _TILE_ROWS):
                    at = (point * room + k) * channels + panel // group_panels * group_channels
                    rows = (
                        *(at, at + channels, at + 2 * channels),
                        *(at + 3 * channels, at + 4 * channels, at + 5 * channels),
                    )
                    gemm_micro_kernel(
                        *(inputs, rows, depth),
                        *(flat_weights, (panel * points + point) * group_channels * width, width),
                        *(zeros, 0, 0),
                        *(products, (k * points + point) * width, points * width),
                    )
            for k in range(count):
                n, tile = (first + k) // tiles, (first + k) % tiles
                target, to = flat_y, n * y_image + panel * width
                if finishing:
                    target, to = maps, k // tiles * map_size
                at = k * points * width
                _transform_outputs(m, products, at, product_offsets, target, to, tiling.outputs[tile], width)
            for image in range(count // tiles if finishing else 0):
                at = (first // tiles + image) * y_image + panel * width
                here = maps[image * map_size : (image + 1) * map_size]
                finish(here, out[0], out[1], epilogue, panel * width, width, out[2], flat_y, at)


@parallel_jit
def _weight_gradient(x, dy, tiling, dtransformed, dweight):
    """dweight; `dtransformed`, (points, C_in, C_out), zero on entry, receives that of the transformed weights."""
    batch, channels, out_channels = x.shape[0], x.shape[3], dy.shape[3]
    points, m, tiles = dtransformed.shape[0], tiling.m, tiling.inputs.shape[0]
    lanes, width = VECTOR_BYTES // x.itemsize, PANEL_BYTES // x.itemsize
    block, consecutive = max(lanes, len(_GRADIENT_ROWS)), multiples(len(_GRADIENT_ROWS), 1)  # input channels
    flat_x, flat_dy, flat_dweight = x.reshape(-1), dy.reshape(-1), dweight.reshape(-1)
    flat_sums = dtransformed.reshape(-1)
    x_image, dy_image = x.size // batch, dy.size // batch
    total, panels = batch * tiles, out_channels // width
    inputs = scratch(points * channels * _CHUNK, x)  # [point, c // block, k, c % block], transformed
    outputs = scratch(points * out_channels * _CHUNK, x)  # [point, o // width, k, o % width], transformed
    input_offsets, output_offsets = multiples(points, channels * _CHUNK), multiples(points, out_channels * _CHUNK)
    for first in range(0, total, _CHUNK):
        count = min(_CHUNK, total - first)
        for k in prange(count):
            n, tile = (first + k) // tiles, (first + k) % tiles
            for c in range(0, channels, lanes):
                at, to = n * x_image + c, c // block * block * _CHUNK + k * block + c % block
                _transform_inputs(m, flat_x, at, tiling.inputs[tile], inputs, to, input_offsets, lanes)
            for o in range(0, out_channels, width):
                at, to = n * dy_image + o, o * _CHUNK + k * width
                _transform_output_gradients(m, flat_dy, at, tiling.outputs[tile], outputs, to, output_offsets, width)
        depth = multiples(count, block)
        for task in prange(points * panels):
            point, panel = task // panels, task % panels
            output = (point * out_channels + panel * width) * _CHUNK
            for c in range(0, channels, len(_GRADIENT_ROWS)):
                at = (point * channels + c // block * block) * _CHUNK + c % block
                total_at = (point * channels + c) * out_channels + panel * width
                gemm_micro_kernel(
                    *(inputs, positions_of_rows(at, consecutive, 0, _GRADIENT_ROWS), depth),
                    *(outputs, output, width),
                    *(flat_sums, total_at, out_channels),
                    *(flat_sums, total_at, out_channels),
                )
    size = channels * out_channels
    point_offsets, tap_offsets = multiples(points, size), multiples(9, size)
    for c in prange(channels):
        at = c * out_channels
        _transform_tap_gradients(m, flat_sums, at, point_offsets, flat_dweight, at, tap_offsets, out_channels)


def applies(g: Conv2dGeometry) -> bool:
    """Whether Winograd is applicable: 3x3, stride 1, no dilation, channels a multiple of the panel width.

    So must be the output channels of a group, and for the gradient of the weights there may be only one.
    """
    width = PANEL_BYTES // np.dtype(np.float32).itemsize
    return (
        g.kernel == (3, 3)
        and g.stride == g.dilation == (1, 1)
        and g.in_channels % width == g.out_channels // g.groups % width == 0
    )


def pays_off(g: Conv2dGeometry) -> bool:
    """Whether there are enough tiles for the transform of the weights to pay off."""
    return g.batch * _tiles(g) >= _ENOUGH_TILES


def _tiles(g: Conv2dGeometry) -> int:
    """Tiles of an image."""
    m = tile_size(g.out_height, g.out_width)
    return -(-g.out_height // m) * -(-g.out_width // m)


def keeps_images_in_cache(g: Conv2dGeometry) -> bool:
    """Whether a task may be whole images, which an epilogue needs."""
    return _tiles(g) <= _MAX_TASK_TILES


def _task_images(tiles: int) -> int:
    """Images of a task, so that their tiles fill register tiles as well as possible."""
    return min(
        range(1, _MAX_TASK_TILES // tiles + 1), key=lambda images: (-images * tiles % _TILE_ROWS / images, images)
    )


def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    g: Conv2dGeometry,
    y: np.ndarray,
    epilogue: Epilogue | None = None,
) -> None:
    """y = `epilogue` of the convolution of x, or the convolution plus bias, (C_out,) or empty."""
    m, width, tiles = tile_size(g.out_height, g.out_width), PANEL_BYTES // x.itemsize, _tiles(g)
    weights = aligned.empty((g.out_channels // width, (m + 2) ** 2, g.weight_shape[2], width), x.dtype)
    _transformed_weights(m, weight, weights)
    task_tiles = _TASK_TILES if epilogue is None else _task_images(tiles) * tiles
    tiling = _tiling(m, g, g.out_channels if epilogue is None else width)
    after = epilogue or no_epilogue(x.dtype)
    _convolution(x, weights, tiling, task_tiles, np.zeros(width, x.dtype), after, y, g.y_shape[1:])
    if bias.size:
        y += bias


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, written to `dweight`."""
    m = tile_size(g.out_height, g.out_width)
    tiling = _tiling(m, g, g.out_channels)
    dtransformed = aligned.zeros(((m + 2) ** 2, g.in_channels, g.out_channels), x.dtype)
    _weight_gradient(x, dy, tiling, dtransformed, dweight)
