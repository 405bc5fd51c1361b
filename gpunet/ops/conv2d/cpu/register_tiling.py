"""Convolution as an implicit GEMM with a register tile of accumulators, reading input rows from the L1 cache.

The input rows that a few output rows of an image depend on are packed into a small buffer, including padding, in which
term t (a tap and an input channel) of output position m is at ``positions[m] + terms[t]``. The GEMM micro-kernel
accumulates outer products of such elements with contiguous vectors: over the terms, with the weights, for the output;
over the positions, with dy, for the gradient of the weights.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import clear_elements, copy_elements
from gpunet.ops._simd import (
    MANY_REGISTERS,
    PANEL_BYTES,
    PANEL_VECTORS,
    VECTOR_BYTES,
    gemm_micro_kernel,
    micro_kernel,
    narrow_micro_kernel,
    positions_of_rows,
    scratch,
)
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, finish, no_epilogue, reduce_split_k
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run

POSITIONS = 256
"""Approximate number of output positions per task, so that the micro-kernel's reused operands stay in the L1 cache."""
_DEPTH_BYTES = 24 * 1024
"""Size of the weights of a panel that are applied at a time, so that they stay in the L1 cache while positions pass."""
_CHUNK = 32
"""Positions that the weight gradient accumulates at a time: as many as fit in the L1 cache at a stride of 512 bytes."""
_SPLIT_K, _SPLIT_K_ELEMENTS = 32, 2**22
"""Maximum number of split-K parts of the weight gradient, and of their elements in total; at least four parts. They
depend only on the shapes, so that results do not depend on the number of threads."""
_TASKS = 8
"""Target number of tasks of a convolution, if it can be split that far."""
_SERIAL_PRODUCTS = 2**20
"""Up to this many multiply-adds, waking other threads takes longer than it saves."""
POSITION_ROWS, _TERM_ROWS = (0,) * 6, (0,) * (9 if MANY_REGISTERS else 4)
"""Rows of the register tile: output positions in the forward pass, terms in the weight gradient. Tuples, of which only
the lengths count: these are known when a kernel is compiled."""
NARROW_POSITION_ROWS, _NARROW_TERM_ROWS = (0,) * 12, (0,) * (12 if MANY_REGISTERS else 8)
"""If the output channels, or those of a group, fit in a vector: then a row of the tile is one vector, not two."""
_FEWEST_NARROW_ROWS = 12 if MANY_REGISTERS else 8
"""By which a kernel knows these tiles from the others."""
_RUN, _NARROW_RUN = (8, 16) if MANY_REGISTERS else (4, 8)
"""Rows of the register tile of the weight gradient if the input channels of a group are a multiple of them: then they
are consecutive elements, and take one register together, so that there may be more where there are 32 registers."""
_run_tile, _narrow_run_tile = micro_kernel(PANEL_VECTORS, _RUN), micro_kernel(1, _NARROW_RUN)


class _Layout(NamedTuple):
    """How the input is packed into a task's buffer."""

    task_rows: int
    """Output rows per task."""
    top: int
    """Rows of padding at the top."""
    stride: int
    """Input rows from one output row to the next."""
    height: int
    """Rows of the buffer."""
    width: int
    """Elements per row of the buffer."""
    margin: int
    """Elements of padding at the left of a row."""
    positions: np.ndarray
    """Offset of each output position, in elements; padded to a multiple of the rows of a tile."""
    terms: np.ndarray
    """Offset of each term of the first group, in elements; padded to a multiple of the rows of a tile."""
    groups: int
    group_channels: int
    """Input channels of a group."""


def is_narrow(group_channels: int, itemsize: int) -> bool:
    """Whether the outputs of a group fit in a vector."""
    return group_channels * itemsize <= VECTOR_BYTES


@functools.lru_cache(maxsize=256)
def _layout(g: Conv2dGeometry, window: int, narrow: bool) -> _Layout:
    """With rows of tasks that are a multiple of `window`."""
    position_rows, term_rows = (NARROW_POSITION_ROWS, _NARROW_TERM_ROWS) if narrow else (POSITION_ROWS, _TERM_ROWS)
    run = _NARROW_RUN if narrow else _RUN
    term_tile = len(term_rows) if g.weight_shape[2] % run else run
    channels = g.in_channels
    tasks = -(-g.out_height // max(1, POSITIONS // g.out_width))  # per image
    task_rows = -(-g.out_height // (tasks * window)) * window
    reach = (g.out_width - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    width = max(g.padding[2] + g.width, reach) * channels
    i, j = np.ogrid[:task_rows, : g.out_width]
    positions = (i * g.stride[0] * width + j * g.stride[1] * channels).reshape(-1)
    p, q, c = np.ogrid[: g.kernel[0], : g.kernel[1], : g.weight_shape[2]]
    terms = (p * g.dilation[0] * width + q * g.dilation[1] * channels + c).reshape(-1)
    return _Layout(
        task_rows=task_rows,
        top=g.padding[0],
        stride=g.stride[0],
        height=(task_rows - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1,
        width=width,
        margin=g.padding[2] * channels,
        positions=np.pad(positions, (0, -len(positions) % len(position_rows))),
        terms=np.pad(terms, (0, -len(terms) % term_tile)),
        groups=g.groups,
        group_channels=g.weight_shape[2],
    )


def pad_to_panels(matrix: np.ndarray, groups: int, panel: int) -> np.ndarray:
    """`matrix` with each of `groups` equal parts of its rows zero-padded to a multiple of `panel`, flattened."""
    rows, columns = len(matrix), matrix.shape[1] // groups
    if columns % panel == 0:
        return matrix.reshape(-1)
    padded = aligned.zeros((rows, groups, -(-columns // panel) * panel), matrix.dtype)
    run(np.copyto, padded[..., :columns], matrix.reshape(rows, groups, columns))
    return padded.reshape(-1)


@jit
def is_narrow_tile(tile):
    return len(tile) >= _FEWEST_NARROW_ROWS


@jit
def panel_size(tile, like):
    """Elements of a row of the register tile, a panel of output channels."""
    return (VECTOR_BYTES if is_narrow_tile(tile) else PANEL_BYTES) // like.itemsize


@jit
def pack_rows(x, n, first, layout):
    """A task's buffer: the rows of the map x[n] from `first` on, which may be negative; zeros outside the map."""
    height, length, flat_x = x.shape[1], x.shape[2], x.reshape(-1)
    margin, beside = layout.margin, layout.width - length  # the end of a row and the margin of the next
    buffer = scratch(layout.height * layout.width + margin, x)
    clear_elements(buffer, 0, margin)
    for k in range(layout.height):
        row, at = first + k, k * layout.width + margin
        if 0 <= row < height:
            copy_elements(flat_x, (n * height + row) * length, buffer, at, length)
            clear_elements(buffer, at + length, beside)
        else:
            clear_elements(buffer, at, layout.width)
    return buffer


@jit
def panel_sums(buffer, base, positions, count, terms, weight, first, b, start, tile, target, at, to_row, padded_tiles):
    """`start` plus the convolution of a panel's output channels, for `count` positions of a task.

    The weights of the terms are the rows of `weight` from `first` on, as wide as `start`; those of the panel begin at
    column b. Position m is written to ``target[at + m * to_row]``; `padded_tiles`: there is room for whole tiles.
    """
    padded, tile_rows = start.size, len(tile)
    depth = _DEPTH_BYTES // (panel_size(tile, buffer) * buffer.itemsize)
    begin, begin_row, begin_start = start, 0, b
    for k in range(0, max(terms.size, 1), depth):
        part = terms[k : min(k + depth, terms.size)]
        for tile_start in range(0, count, tile_rows):
            m = tile_start if padded_tiles else min(tile_start, count - tile_rows)  # else the last tiles overlap
            left: Any = buffer, positions_of_rows(base, positions, m, tile), part
            right, sums_at = (weight, (first + k) * padded + b, padded), begin_start + m * begin_row
            to = at + m * to_row
            if is_narrow_tile(tile):
                narrow_micro_kernel(*left, *right, *(begin, sums_at, begin_row), *(target, to, to_row))
            else:
                gemm_micro_kernel(*left, *right, *(begin, sums_at, begin_row), *(target, to, to_row))
        begin, begin_row, begin_start = target, to_row, at


@jit
def _task(x, weight, bias, layout, tile, term_count, splits, epilogue, flat_y, out, task):
    """A block of output rows of an image, and one of the `splits` that its panels are divided into."""
    out_height, out_width, out_channels = out
    positions, terms = layout.positions, layout.terms[:term_count]
    padded, panel, tile_rows = bias.size, panel_size(tile, x), len(tile)
    row_blocks, panels = (out_height + layout.task_rows - 1) // layout.task_rows, padded // panel
    group_panels, group_outputs = panels // layout.groups, out_channels // layout.groups
    finishing, window = epilogue.coefficients.size > 0, epilogue.window
    row_block, split = task // splits, task % splits
    n, first = row_block // row_blocks, row_block % row_blocks * layout.task_rows
    rows = min(layout.task_rows, out_height - first)
    count = rows * out_width
    depth = _DEPTH_BYTES // (panel * x.itemsize)
    buffered = finishing or count < tile_rows or group_outputs % panel != 0 or term_count > depth
    values = scratch((count + tile_rows - 1) // tile_rows * tile_rows * panel if buffered else 0, x)
    buffer = pack_rows(x, n, first * layout.stride - layout.top, layout)
    for number in range(split * panels // splits, (split + 1) * panels // splits):
        group, within = number // group_panels, number % group_panels * panel
        base, o, b = group * layout.group_channels, group * group_outputs + within, number * panel
        channels, at = min(panel, group_outputs - within), (n * out_height + first) * out_width * out_channels + o
        # Chosen once: to bind an array to a name counts a reference, atomically.
        target, to_row, to_start = (values, panel, 0) if buffered else (flat_y, out_channels, at)
        panel_sums(buffer, base, positions, count, terms, weight, 0, b, bias, tile, target, to_start, to_row, buffered)
        if finishing:
            at = (n * out_height + first) // window * (out_width // window) * out_channels + o
            finish(values, rows, out_width, epilogue, o, channels, out_channels, flat_y, at)
        elif buffered:
            for r in range(count):
                copy_elements(values, r * panel, flat_y, at + r * out_channels, channels)


@jit
def _convolution(x, weight, bias, layout, tile, term_count, splits, parts, epilogue, y, out):
    """y = `epilogue` of the convolution of x, (N, H, W * C_in), plus bias, without it of the shape `out`, (H, W, C).

    Weight and bias are flat, each group padded to panels, which each block of output rows splits into `splits` tasks.
    The tasks are run in `parts`.
    """
    flat_y, row_blocks = y.reshape(-1), (out[0] + layout.task_rows - 1) // layout.task_rows
    tasks = x.shape[0] * row_blocks * splits
    for part in prange(parts):
        for task in range(part * tasks // parts, (part + 1) * tasks // parts):
            _task(x, weight, bias, layout, tile, term_count, splits, epilogue, flat_y, out, task)


@jit
def _split_k_weight_gradient(x, dy, layout, tile, partial):
    """partial[k]: the contribution of the k-th part of the tasks to the weight gradient, (terms, padded channels).

    `partial` must be zero on entry. The channels of each group of dy are padded to panels.
    """
    batch, out_height, out_width, channels = dy.shape
    positions, terms = layout.positions, layout.terms
    flat_dy, flat_partial, panel = dy.reshape(-1), partial.reshape(-1), panel_size(tile, dy)
    tasks, group_outputs = (out_height + layout.task_rows - 1) // layout.task_rows, channels // layout.groups
    parts, run = partial.shape[0], _NARROW_RUN if is_narrow_tile(tile) else _RUN
    consecutive = layout.group_channels % run == 0
    for part in prange(parts):
        for task in range(part * batch * tasks // parts, (part + 1) * batch * tasks // parts):
            n, first = task // tasks, task % tasks * layout.task_rows
            buffer = pack_rows(x, n, first * layout.stride - layout.top, layout)
            count = min(layout.task_rows, out_height - first) * out_width
            for start in range(0, count, _CHUNK):
                chunk = positions[start : min(count, start + _CHUNK)]
                at = ((n * out_height + first) * out_width + start) * channels
                for o in range(0, channels, panel):
                    base = o // group_outputs * layout.group_channels
                    for t in range(0, terms.size, run if consecutive else len(tile)):
                        rows: Any = positions_of_rows(base, terms, t, tile)
                        total = flat_partial, (part * terms.size + t) * channels + o, channels
                        right = flat_dy, at + o, channels
                        if is_narrow_tile(tile):
                            if consecutive:
                                _narrow_run_tile(*(buffer, base + terms[t], chunk), *right, *total, *total)
                            else:
                                narrow_micro_kernel(*(buffer, rows, chunk), *right, *total, *total)
                        elif consecutive:
                            _run_tile(*(buffer, base + terms[t], chunk), *right, *total, *total)
                        else:
                            gemm_micro_kernel(*(buffer, rows, chunk), *right, *total, *total)


def convolution(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    g: Conv2dGeometry,
    y: np.ndarray,
    epilogue: Epilogue | None = None,
) -> None:
    """y = `epilogue` of the convolution of x plus bias, (C_out,) or empty."""
    weight = weight.reshape(-1, g.out_channels)
    # An epilogue is applied to whole panels.
    narrow = epilogue is None and is_narrow(g.out_channels // g.groups, x.itemsize)
    panel = (VECTOR_BYTES if narrow else PANEL_BYTES) // x.itemsize
    weight, term_count = pad_to_panels(weight, g.groups, panel), len(weight)
    padded = len(weight) // term_count
    bias = pad_to_panels(bias[None], g.groups, panel) if bias.size else np.zeros(padded, x.dtype)
    epilogue = epilogue or no_epilogue(x.dtype)
    rows, layout = x.reshape(g.batch, g.height, -1), _layout(g, epilogue.window, narrow)
    row_blocks = g.batch * -(-g.out_height // layout.task_rows)
    splits = max(1, min(padded // panel, _TASKS // row_blocks))
    tile = NARROW_POSITION_ROWS if narrow else POSITION_ROWS
    parts = 1 if math.prod(g.y_shape) * term_count <= _SERIAL_PRODUCTS else row_blocks * splits
    _convolution(rows, weight, bias, layout, tile, term_count, splits, parts, epilogue, y, g.y_shape[1:])


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, written to `dweight`."""
    narrow = is_narrow(g.out_channels // g.groups, x.itemsize)
    layout, panel = _layout(g, 1, narrow), (VECTOR_BYTES if narrow else PANEL_BYTES) // x.itemsize
    dy = pad_to_panels(dy.reshape(-1, g.out_channels), g.groups, panel).reshape(*dy.shape[:3], -1)
    fitting = max(4, min(_SPLIT_K, _SPLIT_K_ELEMENTS // (len(layout.terms) * dy.shape[3])))
    parts = min(fitting, g.batch * -(-g.out_height // layout.task_rows))
    partial = aligned.zeros((parts, len(layout.terms), dy.shape[3]), x.dtype)
    tile = _NARROW_TERM_ROWS if narrow else _TERM_ROWS
    _split_k_weight_gradient(x.reshape(g.batch, g.height, -1), dy, layout, tile, partial)
    total = aligned.empty(partial.shape[1:], x.dtype)
    reduce_split_k(partial.reshape(parts, -1), total.reshape(-1))
    outer = g.out_channels // g.groups
    by_group = total.reshape(len(total), g.groups, -1)[: dweight.size // g.out_channels, :, :outer]
    run(np.copyto, dweight.reshape(-1, g.groups, outer), by_group)
