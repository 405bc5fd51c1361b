"""Convolution by the fast Fourier transform of tiles of n x n, with fewer multiplications than direct convolution.

Windows of the input, n x n, and the weights, with zeros around them, are transformed; in the transformed domain,
convolution is a matrix product over the channels at each point; the products are transformed back. As the transform is
periodic, a window gives n - r + 1 rows for kernels of r rows, or all of a map that fits with the padding at one edge:
zeros serve both. For each pair of channels, a 7x7 map takes 94 multiplications, a 14x14 one 382 for any kernel up to
5x5; by Winograd's minimal filtering 144 and 441 for 3x3, 576 and 1,764 for 5x5. The transforms are orthogonal: errors
are those of direct summation, or less.

Source: Mathieu, Henaff & LeCun, Fast Training of Convolutional Networks through FFTs, ICLR 2014; Zlateski, Jia, Li &
Durand, The Anatomy of Efficient FFT and Winograd Convolutions on Modern CPUs, ICS 2019.
"""

from __future__ import annotations

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, numba, prange
from gpunet.ops._pack import clear_elements
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
from gpunet.ops.conv2d.cpu.fft_tiling import MAX_TILES, Tiling, tiling_of
from gpunet.ops.conv2d.cpu.fft_transform import points_of
from gpunet.ops.conv2d.cpu.fft_windows import (
    from_points,
    from_slots,
    inside,
    pack_window,
    place,
    points_before,
    to_conjugates,
    to_points,
    to_slots,
)
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run

_TILE_ROWS, _GRADIENT_ROWS = (8, 8) if MANY_REGISTERS else (6, 4)
"""Rows of the register tile: tiles of the maps, in the gradient of the weights input channels."""
_TASK_BYTES = 2**20
"""Of the points of a task's inputs and products, of two rows of register tiles at most."""
_CHUNK_BYTES, _BLOCK_BYTES = 2**22, 3 * 2**18
"""In the gradient of the weights: of the slots of a chunk of tiles, and of the points of a block of them."""
_SCRATCH_BYTES = 2**14
"""Of slots that are transformed to points at once, half of a small L1 cache."""
_BLOCK_CHANNELS = 32
"""Input channels of a block of weights: their transforms lie side by side, on few pages of memory for each point."""
_forward_tile = micro_kernel(PANEL_VECTORS, _TILE_ROWS, vectors_apart=True)
_gradient_tile = micro_kernel(PANEL_VECTORS, _GRADIENT_ROWS)


@jit
def _transformed_weights(n, weight, result):
    """result[panel, point]: the transformed weights [c, o % width], in panels of PANEL_BYTES of output channels."""
    kernel_rows, kernel_columns, channels, out_channels = weight.shape
    panels, points, point_size = result.shape
    width = out_channels // panels
    lanes, flat_weight, flat_result = width // PANEL_VECTORS, weight.reshape(-1), result.reshape(-1)
    size, slot = channels * out_channels, kernel_columns * width + lanes
    blocks = (channels + _BLOCK_CHANNELS - 1) // _BLOCK_CHANNELS
    for task in prange(panels * blocks):
        panel, first = task // blocks, task % blocks * _BLOCK_CHANNELS
        slots = scratch(n * slot, weight)
        for c in range(first, min(channels, first + _BLOCK_CHANNELS)):
            source = flat_weight, c * out_channels + panel * width, kernel_columns * size, size
            to_slots(n, source, kernel_columns, 0, kernel_rows, (slots, 0, slot, width), PANEL_VECTORS)
            to = panel * points * point_size + c * width
            for group in range(n // 2):
                row = slots, 2 * group * slot, slot, width, 0, kernel_columns
                at = to + points_before(n, group) * point_size
                to_conjugates(n, group, *row, flat_result, at, point_size, lanes, PANEL_VECTORS)


@jit
def _spectra(x, tiling, padding, limits, start, count, slots):
    """slots[slot, (tile, column, channel)]: the columns of the windows of `count` tiles from number `start` on.

    A window begins `padding` before its tile; what is `limits` or more from there is taken for zero.
    """
    n = tiling[0]
    batch, height, width, channels = x.shape
    flat_x, x_image, steps = x.reshape(-1), x.size // batch, channels * x.itemsize // VECTOR_BYTES
    flat_slots, slot, pitch = slots.reshape(-1), slots.shape[1], n * channels + VECTOR_BYTES // x.itemsize
    for k in prange(count):
        image, i, j = place(start + k, tiling)
        top, bottom = inside(i - padding[0], height, limits[0])
        left, right = inside(j - padding[1], width, limits[1])
        at = image * x_image + ((i - padding[0]) * width + j - padding[1] + left) * channels
        band = scratch(n * pitch, x)
        pack_window(flat_x, at, width, channels, top, bottom, right - left, band, pitch)
        source, target = (band, 0, pitch, channels), (k * n + left) * channels
        to_slots(n, source, right - left, top, bottom, (flat_slots, target, slot, channels), steps)


@jit
def _scratch_channels(n, channels, itemsize):
    """So many channels of a window fit in half of the L1 cache."""
    lanes = VECTOR_BYTES // itemsize
    return min(channels, max(1, _SCRATCH_BYTES // (n**2 * VECTOR_BYTES)) * lanes)


@jit
def _convolution(x, weights, tiling, padding, task_tiles, zeros, epilogue, y, out):
    """y = `epilogue` of the convolution of x with the transformed weights, without it of the shape `out`, (H, W, C).

    It is compiled once for None in place of `epilogue`, which is what a training needs, and once for others.

    A task is `task_tiles` tiles, with an epilogue those of whole images. `padding` is that at the top and at the left,
    `zeros` a zero panel row.
    """
    n, m_rows, m_columns, down, across = tiling
    batch, height, width, channels = x.shape
    out_height, out_width, out_channels = out
    panels, points, weights_point = weights.shape
    panel_width, lanes, tiles = PANEL_BYTES // x.itemsize, VECTOR_BYTES // x.itemsize, down * across
    group_channels = weights_point // panel_width
    group_panels = panels * group_channels // channels
    flat_x, flat_weights, flat_y = x.reshape(-1), weights.reshape(-1), y.reshape(-1)
    x_image, y_image, map_size = x.size // batch, y.size // batch, out_height * out_width * panel_width
    room = (task_tiles + _TILE_ROWS - 1) // _TILE_ROWS * _TILE_ROWS
    point_size = room * channels + lanes  # points whose distance is a power of two would evict each other
    part = _scratch_channels(n, channels, x.itemsize)
    pitch, slot, out_slot = n * channels + lanes, n * part + lanes, n * panel_width + lanes
    terms = np.empty(group_channels, np.intp)
    for c in range(group_channels):
        terms[c] = c // lanes * lanes * room + c % lanes
    for task in prange((batch * tiles + task_tiles - 1) // task_tiles):
        first = task * task_tiles
        count = min(task_tiles, batch * tiles - first)
        band, slots = scratch(n * pitch, x), scratch(n * max(slot, out_slot), x)
        inputs = scratch(points * point_size, x)  # [point, c // lanes, tile, c % lanes], transformed
        products = scratch(room * points * panel_width, x)  # [tile, point, channel]
        if epilogue is not None:
            maps = scratch(task_tiles // tiles * map_size, x)  # a panel of channels
        for k in range(count):
            image, i, j = place(first + k, tiling)
            top, bottom = inside(i - padding[0], height, n)
            left, right = inside(j - padding[1], width, n)
            at = image * x_image + ((i - padding[0]) * width + j - padding[1] + left) * channels
            pack_window(flat_x, at, width, channels, top, bottom, right - left, band, pitch)
            for c in range(0, channels, part):
                steps = min(part, channels - c) // lanes
                source, target = (band, c, pitch, channels), (slots, left * part, slot, part)
                to_slots(n, source, right - left, top, bottom, target, steps)
                to = c * room + k * lanes
                for group in range(n // 2):
                    row = slots, 2 * group * slot, slot, part, left, right
                    at_point = to + points_before(n, group) * point_size
                    to_points(n, group, *row, inputs, at_point, point_size, room * lanes, steps)
        for point in range(points if count < room else 0):  # computed in vain, but quickly: not of whatever is there
            for c in range(0, channels, lanes):
                clear_elements(inputs, point * point_size + c * room + count * lanes, (room - count) * lanes)
        for panel in range(panels):
            group_at = panel // group_panels * group_channels * room
            for point in range(points):
                for tile in range(0, count, _TILE_ROWS):
                    _forward_tile(
                        *(inputs, point * point_size + group_at + tile * lanes, terms),
                        *(flat_weights, (panel * points + point) * weights_point, panel_width, zeros, 0, 0),
                        *(products, (tile * points + point) * panel_width, points * panel_width),
                    )
            # Chosen once: to bind an array to a name counts a reference, atomically.
            target, step = flat_y, out_channels
            if epilogue is not None:
                target, step = maps, panel_width
            for k in range(count):
                image, i, j = place(first + k, tiling)
                to = image * y_image + panel * panel_width
                if epilogue is not None:
                    to = (image - first // tiles) * map_size
                rows, columns = min(m_rows, out_height - i), min(m_columns, out_width - j)
                for group in range(n // 2):
                    at = (k * points + points_before(n, group)) * panel_width
                    row = slots, 2 * group * out_slot, out_slot, panel_width, PANEL_VECTORS, columns
                    from_points(n, group, products, at, panel_width, *row)
                corner = target, to + (i * out_width + j) * step, out_width * step, step
                from_slots(n, (slots, 0, out_slot, panel_width), columns, corner, PANEL_VECTORS, rows)
            if epilogue is not None:
                for image in range(count // tiles):
                    at = (first // tiles + image) * y_image + panel * panel_width
                    here = maps[image * map_size : (image + 1) * map_size]
                    finish(
                        *(here, out_height, out_width, epilogue),
                        *(panel * panel_width, panel_width, out_channels, flat_y, at),
                    )


@jit
def _accumulate(
    slots, dy_slots, tiling, padding, sizes, channels, start, count, block_tiles, panel_groups, zeros, sums
):
    """Add the gradient of the transformed weights, (points, C_in, C_out), by some tiles; begin with the first ones.

    A task is a group of slots and a group of panels of output channels.
    """
    n, _, m_columns, _, _ = tiling
    (width, out_width), (in_channels, out_channels) = sizes, channels
    lanes, panel_width = VECTOR_BYTES // slots.itemsize, PANEL_BYTES // slots.itemsize
    panels, height = out_channels // panel_width, max(lanes, _GRADIENT_ROWS)
    flat_slots, flat_dy, flat_sums = slots.reshape(-1), dy_slots.reshape(-1), sums.reshape(-1)
    slot, dy_slot = slots.shape[1], dy_slots.shape[1]
    own_most = (panels + panel_groups - 1) // panel_groups
    input_point, output_point = block_tiles * in_channels + lanes, block_tiles * own_most * panel_width + lanes
    all_terms = multiples(block_tiles, height)
    for task in prange(n // 2 * panel_groups):
        group, part = task // panel_groups, task % panel_groups
        before, own_points = points_before(n, group), points_before(n, group + 1) - points_before(n, group)
        first_panel, end_panel = part * panels // panel_groups, (part + 1) * panels // panel_groups
        inputs = scratch(own_points * input_point, slots)  # [point, c // height, tile, c % height]
        outputs = scratch(own_points * output_point, slots)  # [point, panel, tile, channel]
        for first in range(0, count, block_tiles):
            end = min(count, first + block_tiles)
            for k in range(first, end):
                j = place(start + k, tiling)[2]
                left, right = inside(j - padding[1], width, n)
                for c in range(0, in_channels, height):
                    at, to = 2 * group * slot + k * n * in_channels + c, c * block_tiles + (k - first) * height
                    source = flat_slots, at, slot, in_channels, left, right
                    to_points(n, group, *source, inputs, to, input_point, lanes, height // lanes)
                columns = min(m_columns, out_width - j)
                for panel in range(first_panel, end_panel):
                    at = 2 * group * dy_slot + k * n * out_channels + panel * panel_width
                    to = ((panel - first_panel) * block_tiles + k - first) * panel_width
                    source = flat_dy, at, dy_slot, out_channels, 0, columns
                    to_conjugates(n, group, *source, outputs, to, output_point, lanes, PANEL_VECTORS)
            terms, is_first = all_terms[: end - first], start + first == 0
            begin = zeros if is_first else flat_sums
            for point in range(own_points):
                for panel in range(first_panel, end_panel):
                    output = point * output_point + (panel - first_panel) * block_tiles * panel_width
                    for c in range(0, in_channels, _GRADIENT_ROWS):
                        at = point * input_point + c // height * height * block_tiles + c % height
                        to = ((before + point) * in_channels + c) * out_channels + panel * panel_width
                        begin_at, begin_row = (0, 0) if is_first else (to, out_channels)
                        _gradient_tile(
                            *(inputs, at, terms, outputs, output, panel_width),
                            *(begin, begin_at, begin_row, flat_sums, to, out_channels),
                        )


@jit
def _tap_gradients(n, sums, dweight):
    """The gradient of the weights from that of the transformed weights."""
    _, channels, out_channels = sums.shape
    rows, columns, _, _ = dweight.shape
    flat_sums, flat_dweight, size = sums.reshape(-1), dweight.reshape(-1), channels * out_channels
    steps, slot = out_channels * sums.itemsize // VECTOR_BYTES, columns * out_channels + VECTOR_BYTES // sums.itemsize
    for c in prange(channels):
        slots = scratch(n * slot, sums)
        for group in range(n // 2):
            at, target = points_before(n, group) * size + c * out_channels, (slot, out_channels, steps, columns)
            from_points(n, group, flat_sums, at, size, slots, 2 * group * slot, *target)
        target = flat_dweight, c * out_channels, columns * size, size
        from_slots(n, (slots, 0, slot, out_channels), columns, target, steps, rows)


def _task_tiles(g: Conv2dGeometry, t: Tiling, itemsize: int, whole_images: bool) -> int:
    """Tiles of a task: as many as fit into the L2 cache; whole images fill register tiles as well as possible."""
    if not whole_images:
        of_a_tile = points_of(t.n) * (g.in_channels * itemsize + PANEL_BYTES)
        return min(2, max(1, _TASK_BYTES // of_a_tile // _TILE_ROWS)) * _TILE_ROWS
    tiles = t.down * t.across
    return tiles * min(
        range(1, MAX_TILES // tiles + 1), key=lambda images: (-images * tiles % _TILE_ROWS / images, images)
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
    t, panel_width, lanes = tiling_of(g), PANEL_BYTES // x.itemsize, VECTOR_BYTES // x.itemsize
    point_size = g.weight_shape[2] * panel_width + lanes
    weights = aligned.empty((g.out_channels // panel_width, points_of(t.n), point_size), x.dtype)
    _transformed_weights(t.n, weight, weights)
    padding, zeros = (g.padding[0], g.padding[2]), np.zeros(panel_width, x.dtype)
    task_tiles = _task_tiles(g, t, x.itemsize, epilogue is not None)
    _convolution(x, weights, t, padding, task_tiles, zeros, epilogue, y, g.y_shape[1:])
    if bias.size:
        run(np.add, y, bias, y)


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, written to `dweight`."""
    t, lanes, panel_width = tiling_of(g), VECTOR_BYTES // x.itemsize, PANEL_BYTES // x.itemsize
    tiles = g.batch * t.down * t.across
    chunk = min(tiles, max(1, _CHUNK_BYTES // (t.n**2 * (g.in_channels + g.out_channels) * x.itemsize)))
    chunk = -(-tiles // -(-tiles // chunk))
    panels = g.out_channels // panel_width
    groups = min(panels, -(-numba.get_num_threads() // (t.n // 2)))  # which do not show in the result
    per_tile = 3 * t.n * (g.in_channels + -(-panels // groups) * panel_width) * x.itemsize
    block = max(1, min(chunk, _BLOCK_BYTES // per_tile))
    slots = aligned.empty((t.n, chunk * t.n * g.in_channels + lanes), x.dtype)
    dy_slots = aligned.empty((t.n, chunk * t.n * g.out_channels + lanes), x.dtype)
    sums = aligned.empty((points_of(t.n), g.in_channels, g.out_channels), x.dtype)
    padding, zeros = (g.padding[0], g.padding[2]), np.zeros(panel_width, x.dtype)
    sizes, channels = (g.width, g.out_width), (g.in_channels, g.out_channels)
    for start in range(0, tiles, chunk):
        count = min(chunk, tiles - start)
        _spectra(x, t, padding, (t.n, t.n), start, count, slots)
        _spectra(dy, t, (0, 0), (t.rows, t.columns), start, count, dy_slots)
        _accumulate(slots, dy_slots, t, padding, sizes, channels, start, count, block, groups, zeros, sums)
    _tap_gradients(t.n, sums, dweight)
