"""Convolution by Winograd's minimal filtering F(m x m, r x r), with fewer multiplications than direct convolution.

The output is divided into tiles of m x m. The input tiles, n x n with n = m + r - 1, and the weights are transformed;
in the transformed domain, convolution is a matrix product over the channels at each of n^2 points. The products are
transformed back. The gradient of the weights works the same way with the roles swapped. For 3x3 kernels, F(4x4, 3x3)
takes 36 multiplications instead of 144, F(5x5, 3x3) 49 instead of 225, F(7x7, 3x3) 81 instead of 441, F(3x3, 3x3) 25
instead of 81, and 22 if the map is 3x3; for 5x5 ones F(2x2, 5x5) 36 instead of 100.

The transforms amplify rounding errors: in float32, on maps of 14x14 as in the default network (F(7x7, 3x3)), the
largest were 41 to 79 times those of direct summation, of F(5x5, 3x3) 7 to 28 times, of F(4x4, 3x3) up to 8 times, of
3x3 maps as large. Typical ones of F(7x7, 3x3) are 1e-5 to 2e-5 of the result; those of TF32 are 3e-4.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, numba, prange
from gpunet.ops._pack import clear_elements, copy_elements
from gpunet.ops._simd import (
    MANY_REGISTERS,
    PANEL_BYTES,
    PANEL_VECTORS,
    VECTOR_BYTES,
    micro_kernel,
    multiples,
    scratch,
)
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, finish
from gpunet.ops.conv2d.cpu.winograd_tiles import (
    multiplications,
    tile_of,
    tiles_of,
    transform_inputs,
    transform_output_gradients,
    transform_outputs,
    transform_tap_gradients,
    transform_taps,
)
from gpunet.ops.conv2d.taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run

_TASK_TILES, _TASK_BYTES, _MAX_TASK_TILES = (12, 24), 2**17, 48
"""Fewest and most tiles of a task of a convolution, bytes of their transforms, which share the L2 cache with those of
the weights; and most tiles of a task of whole images."""
_TILE_ROWS, _GRADIENT_ROWS = (12, 8) if MANY_REGISTERS else (6, 4)
"""Rows of the register tile: tiles of the maps, in the gradient of the weights input channels."""
_ENOUGH_TILES = 20
"""Number of tiles from which the transform of the weights pays off (measured on Zen 3)."""
_PARTS, _PARTIAL_BYTES, _PART_TILES = 8, 3 * 2**20, 128
"""Maximum number of parts of the tiles whose gradients of the weights are summed apart, of bytes of these sums, and
minimum of tiles of a part. They depend only on the shapes, so that results do not depend on the number of threads."""
_CHUNK, _CHUNK_POINTS = 48, 2600
"""Most tiles, and points of them, that a part accumulates at a time: more do not stay in the L2 cache."""
_BLOCK_CHANNELS = 32
"""Input channels of a block of weights: their transforms lie side by side, on few pages of memory for each point."""
_forward_tile = micro_kernel(PANEL_VECTORS, _TILE_ROWS, vectors_apart=True)
_gradient_tile = micro_kernel(PANEL_VECTORS, _GRADIENT_ROWS)


@jit
def _pack_band(x, start, height, width, channels, top, left, rows, columns, band):
    """Copy `rows` rows and `columns` columns of the map at ``x[start]``, from row `top` and column `left` on.

    Both may be negative. What is outside the map is zero. In `band`, the rows are one after another.
    """
    first = max(0, left)
    end = max(first, min(width, left + columns))
    for k in range(rows):
        row, to = top + k, k * columns * channels
        if 0 <= row < height:
            before, inside = (first - left) * channels, (end - first) * channels
            clear_elements(band, to, before)
            copy_elements(x, start + (row * width + first) * channels, band, to + before, inside)
            clear_elements(band, to + before + inside, columns * channels - before - inside)
        else:
            clear_elements(band, to, columns * channels)


@jit
def _transform_band(tile, band, columns, channels, block, inputs, to, room, point):
    """Transform all tiles of a band of `columns` columns of x: [c // block, tile, c % block] from ``inputs[to]`` on.

    There is `room` for so many tiles. `block` is at least the vector width, `point` the distance between points.
    """
    m, n, _ = tile
    lanes = VECTOR_BYTES // band.itemsize
    for k in range((columns - (n - m)) // m):
        for c in range(0, channels, block):
            source = band, k * m * channels + c, columns * channels, channels
            transform_inputs(tile, *source, inputs, to + c * room + k * block, point, lanes, block // lanes)


@jit
def _transformed_weights(tile, weight, result):
    """result[panel, point, c, :]: the transformed weights, in panels of PANEL_BYTES of output channels."""
    r, _, channels, out_channels = weight.shape
    panels, points, _, width = result.shape
    size, point, lanes = channels * out_channels, channels * width, width // PANEL_VECTORS
    flat_weight, flat_result = weight.reshape(-1), result.reshape(-1)
    blocks = (channels + _BLOCK_CHANNELS - 1) // _BLOCK_CHANNELS
    for task in prange(panels * blocks):
        panel, first = task // blocks, task % blocks * _BLOCK_CHANNELS
        for c in range(first, min(channels, first + _BLOCK_CHANNELS)):
            source = flat_weight, c * out_channels + panel * width, r * size, size
            target = flat_result, (panel * points * channels + c) * width, point, lanes, PANEL_VECTORS
            transform_taps(tile, *source, *target)


@jit
def _convolution(x, weights, tile, padding, task_bands, zeros, epilogue, y, out):
    """y = `epilogue` of the convolution of x with the transformed weights, without it of the shape `out`, (H, W, C).

    It is compiled once for None in place of `epilogue`, which is what a training needs, and once for others.

    A task is `task_bands` rows of tiles, with an epilogue those of whole images. `padding` is that at the top and at
    the left, `zeros` a zero panel row.
    """
    m, n, _ = tile
    batch, height, width, channels = x.shape
    out_height, out_width, out_channels = out
    panels, points, group_channels, panel_width = weights.shape
    group_panels, lanes = panels * group_channels // channels, VECTOR_BYTES // x.itemsize
    down, across = (out_height + m - 1) // m, (out_width + m - 1) // m
    flat_x, flat_weights, flat_y = x.reshape(-1), weights.reshape(-1), y.reshape(-1)
    x_image, y_image, map_size = x.size // batch, y.size // batch, out_height * out_width * panel_width
    room = (task_bands * across + _TILE_ROWS - 1) // _TILE_ROWS * _TILE_ROWS
    point_size = room * channels + lanes  # points whose distance is a power of two would evict each other
    terms = np.empty(group_channels, np.intp)
    for c in range(group_channels):
        terms[c] = c // lanes * lanes * room + c % lanes
    for task in prange((batch * down + task_bands - 1) // task_bands):
        first, end = task * task_bands, min((task + 1) * task_bands, batch * down)
        count = (end - first) * across
        band = scratch(n * (across * m + n - m) * channels, x)
        inputs = scratch(points * point_size, x)  # [point, c // lanes, tile, c % lanes], transformed
        products = scratch(room * points * panel_width, x)  # [tile, point, channel]
        if epilogue is not None:
            maps = scratch(task_bands // down * map_size, x)  # a panel of channels
        for number in range(first, end):
            image, top, columns = number // down, number % down * m - padding[0], across * m + n - m
            _pack_band(*(flat_x, image * x_image, height, width, channels), *(top, -padding[1], n, columns), band)
            to = (number - first) * across * lanes
            _transform_band(tile, band, columns, channels, lanes, inputs, to, room, point_size)
        for point in range(points):  # computed in vain, but quickly: with whatever is there, it may not be
            for c in range(0, channels, lanes):
                clear_elements(inputs, point * point_size + c * room + count * lanes, (room - count) * lanes)
        for panel in range(panels):
            group = panel // group_panels * group_channels * room
            for point in range(points):
                for k in range(0, count, _TILE_ROWS):
                    at = point * point_size + group + k * lanes
                    right = (panel * points + point) * group_channels * panel_width
                    _forward_tile(
                        *(inputs, at, terms, flat_weights, right, panel_width, zeros, 0, 0),
                        *(products, (k * points + point) * panel_width, points * panel_width),
                    )
            # Chosen once: to bind an array to a name counts a reference, atomically.
            target, step = flat_y, out_channels
            if epilogue is not None:
                target, step = maps, panel_width
            for k in range(count):
                number = first + k // across
                image, i, j = number // down, number % down * m, k % across * m
                to = image * y_image + panel * panel_width
                if epilogue is not None:
                    to = (image - first // down) * map_size
                place = target, to + (i * out_width + j) * step, out_width * step, step
                transform_outputs(
                    *(tile, products, k * points * panel_width, panel_width),
                    *(*place, PANEL_VECTORS, out_height - i, out_width - j),
                )
            if epilogue is not None:
                for image in range((end - first) // down):
                    at = (first // down + image) * y_image + panel * panel_width
                    here = maps[image * map_size : (image + 1) * map_size]
                    finish(
                        *(here, out_height, out_width, epilogue),
                        *(panel * panel_width, panel_width, out_channels, flat_y, at),
                    )


@jit
def _accumulate(x, dy, tile, padding, bands, panels, chunk_bands, sums, start):
    """What some rows of tiles contribute to ``sums[start]``, flat (points, C_in, C_out), for some output channels.

    `bands` and `panels` are the first number and the one after the last, of rows of tiles and of panels of channels.
    `chunk_bands` rows of tiles are transformed at a time.
    """
    m, n, points = tile
    batch, height, width, channels = x.shape
    _, out_height, out_width, out_channels = dy.shape
    lanes, panel_width = VECTOR_BYTES // x.itemsize, PANEL_BYTES // x.itemsize
    block = max(lanes, _GRADIENT_ROWS)  # input channels
    down, across = (out_height + m - 1) // m, (out_width + m - 1) // m
    flat_x, flat_dy, x_image, dy_image = x.reshape(-1), dy.reshape(-1), x.size // batch, dy.size // batch
    room, outputs_count = chunk_bands * across, (panels[1] - panels[0]) * panel_width
    input_point, output_point = room * channels + lanes, room * outputs_count + lanes
    inputs = scratch(points * input_point, x)  # [point, c // block, tile, c % block], transformed
    outputs = scratch(points * output_point, x)  # [point, o // panel_width, tile, o % panel_width], transformed
    band = scratch(n * (across * m + n - m) * max(channels, out_channels), x)
    all_terms, zeros = multiples(room, block), scratch(panel_width, x)
    clear_elements(zeros, 0, panel_width)
    for first in range(bands[0], bands[1], chunk_bands):
        end = min(first + chunk_bands, bands[1])
        for number in range(first, end):
            image, i, tiles_before = number // down, number % down * m, (number - first) * across
            columns = across * m + n - m
            top, left = i - padding[0], -padding[1]
            _pack_band(*(flat_x, image * x_image, height, width, channels), *(top, left, n, columns), band)
            _transform_band(tile, band, columns, channels, block, inputs, tiles_before * block, room, input_point)
            columns = across * m
            _pack_band(*(flat_dy, image * dy_image, out_height, out_width, out_channels), *(i, 0, m, columns), band)
            for k in range(across):
                for panel in range(panels[0], panels[1]):
                    at = k * m * out_channels + panel * panel_width
                    to = ((panel - panels[0]) * room + tiles_before + k) * panel_width
                    source = band, at, columns * out_channels, out_channels
                    transform_output_gradients(tile, *source, outputs, to, output_point, lanes, PANEL_VECTORS)
        terms = all_terms[: (end - first) * across]
        is_first = first == bands[0]
        begin = zeros if is_first else sums
        for point in range(points):
            for panel in range(panels[0], panels[1]):
                output = point * output_point + (panel - panels[0]) * room * panel_width
                for c in range(0, channels, _GRADIENT_ROWS):
                    at = point * input_point + c // block * block * room + c % block
                    to = start + (point * channels + c) * out_channels + panel * panel_width
                    begin_at, begin_row = (0, 0) if is_first else (to, out_channels)
                    _gradient_tile(
                        *(inputs, at, terms, outputs, output, panel_width),
                        *(begin, begin_at, begin_row, sums, to, out_channels),
                    )


@jit
def _partial_gradients(x, dy, tile, padding, parts, panel_groups, chunk_bands, partial):
    """partial[k], (points, C_in, C_out): the gradient of the transformed weights that part k of the tiles gives.

    A task is one of the `parts` of the rows of tiles, and one of the groups of panels of output channels.
    """
    batch, out_height, panels = x.shape[0], dy.shape[1], dy.shape[3] // (PANEL_BYTES // x.itemsize)
    m, flat_partial, size = tile[0], partial.reshape(-1), partial[0].size
    bands = batch * ((out_height + m - 1) // m)
    for task in prange(parts * panel_groups):
        part, group = task // panel_groups, task % panel_groups
        own_bands = part * bands // parts, (part + 1) * bands // parts
        own_panels = group * panels // panel_groups, (group + 1) * panels // panel_groups
        _accumulate(x, dy, tile, padding, own_bands, own_panels, chunk_bands, flat_partial, part * size)


@jit
def _tap_gradients(tile, partial, dweight):
    """The gradient of the weights, of the sum over the parts of that of the transformed weights."""
    parts, points, channels, out_channels = partial.shape
    r, lanes, size = dweight.shape[0], VECTOR_BYTES // partial.itemsize, channels * out_channels
    flat, flat_dweight = partial.reshape(-1), dweight.reshape(-1)
    for c in prange(channels):
        for point in range(points):
            for part in range(1, parts):
                total, values = partial[0, point, c], partial[part, point, c]
                for o in range(out_channels):
                    total[o] += values[o]
        place = flat_dweight, c * out_channels, r * size, size
        transform_tap_gradients(tile, flat, c * out_channels, size, *place, out_channels // lanes)


def applies(g: Conv2dGeometry) -> bool:
    """Whether Winograd is applicable: 3x3 or 5x5, stride 1, no dilation, channels a multiple of the panel width.

    So must be the output channels of a group, and for the gradient of the weights there may be only one.
    """
    width = PANEL_BYTES // np.dtype(np.float32).itemsize
    return (
        g.kernel in ((3, 3), (5, 5))
        and g.stride == g.dilation == (1, 1)
        and g.in_channels % width == g.out_channels // g.groups % width == 0
    )


@functools.lru_cache(maxsize=1024)
def pays_off(g: Conv2dGeometry, products: int = 1) -> bool:
    """Whether it takes fewer multiplications, and there are enough tiles for the transform of the weights to pay off.

    On maps smaller than the kernel it takes more than there are taps that are not on the padding. It computes as many
    `products` for each of the convolution.
    """
    inside = math.prod(int((table >= 0).sum()) for table in tap_tables(g)[0])
    tile = tile_of(g)
    return g.batch * tiles_of(g, tile.m) >= products * _ENOUGH_TILES and products * multiplications(g, tile) < inside


def keeps_images_in_cache(g: Conv2dGeometry) -> bool:
    """Whether a task may be whole images, which an epilogue needs."""
    return tiles_of(g, tile_of(g).m) <= _MAX_TASK_TILES


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
    tile, panel_width = tile_of(g), PANEL_BYTES // x.itemsize
    tiles = tiles_of(g, tile.m)
    weights = aligned.empty((g.out_channels // panel_width, tile.points, g.weight_shape[2], panel_width), x.dtype)
    _transformed_weights(tile, weight, weights)
    down = -(-g.out_height // tile.m)
    if epilogue is None:
        fitting = _TASK_BYTES // (tile.points * g.in_channels * x.itemsize) // _TILE_ROWS * _TILE_ROWS
        task_bands = max(1, min(max(fitting, _TASK_TILES[0]), _TASK_TILES[1]) * down // tiles)
    else:
        task_bands = _task_images(tiles) * down
    padding, zeros = (g.padding[0], g.padding[2]), np.zeros(panel_width, x.dtype)
    _convolution(x, weights, tile, padding, task_bands, zeros, epilogue, y, g.y_shape[1:])
    if bias.size:
        run(np.add, y, bias, y)


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, written to `dweight`."""
    tile = tile_of(g)
    shape, bands = (tile.points, g.in_channels, g.out_channels), g.batch * -(-g.out_height // tile.m)
    fitting = _PARTIAL_BYTES // (math.prod(shape) * x.itemsize)
    parts = max(1, min(_PARTS, fitting, g.batch * tiles_of(g, tile.m) // _PART_TILES, bands))
    panels = g.out_channels * x.itemsize // PANEL_BYTES
    panel_groups = min(panels, -(-numba.get_num_threads() // parts))  # which do not show in the result
    chunk_bands = max(1, min(_CHUNK, _CHUNK_POINTS // tile.points) // -(-g.out_width // tile.m))
    partial = aligned.empty((parts, *shape), x.dtype)
    _partial_gradients(x, dy, tile, (g.padding[0], g.padding[2]), parts, panel_groups, chunk_bands, partial)
    _tap_gradients(tile, partial, dweight)
