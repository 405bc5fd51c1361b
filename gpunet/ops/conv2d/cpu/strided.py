"""The input gradient of a strided convolution, in register tiles.

The rows of dx that leave the same remainder when divided by the stride, a phase of it, depend on the same kernel rows;
likewise its columns. Each phase is a convolution of dy, without stride, with the weights of these taps: with stride 2,
a 3x3 kernel has four phases, of 1, 2, 2 and 4 taps, and nothing is multiplied by zero.

With padding p and dilation d, row ``i * stride + a`` of dx is the sum, over the kernel rows r for which
``a + p - r * d`` is a multiple of the stride, of row ``i + (a + p - r * d) / stride`` of dy times the weights.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import copy_elements
from gpunet.ops._simd import PANEL_BYTES, VECTOR_BYTES, scratch
from gpunet.ops.conv2d.cpu.register_tiling import (
    NARROW_POSITION_ROWS,
    POSITION_ROWS,
    POSITIONS,
    is_narrow,
    pack_rows,
    pad_to_panels,
    panel_size,
    panel_sums,
)
from gpunet.ops.conv2d.cpu.rotation import rotate_weight
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run


class _Phases(NamedTuple):
    """How dy is packed into a task's buffer, and what of it each phase reads."""

    task_rows: int
    """Rows of each phase per task."""
    top: int
    """The row of dy in the buffer's first row, less the first row of the task."""
    height: int
    """Rows of the buffer."""
    width: int
    """Elements per row of the buffer."""
    margin: int
    """Elements of padding at the left of a row."""
    columns: int
    """Columns of the largest phase."""
    positions: np.ndarray
    """Offset of each position of a phase, in elements; padded to a multiple of the rows of a tile."""
    terms: np.ndarray
    """Offset of each term of the first group, phase by phase, in elements."""
    starts: np.ndarray
    """Each phase's first term, and their number."""
    stride: tuple[int, int]
    groups: int
    group_channels: int
    """Output channels of a group."""


def _axis_phases(g: Conv2dGeometry, axis: int) -> list[list[tuple[int, int]]]:
    """Of each phase, its kernel rows (or columns) and by how many rows of dy they are displaced."""
    kernel, stride, dilation, before = g.kernel[axis], g.stride[axis], g.dilation[axis], g.padding[2 * axis]
    reach = [[(a + before - k * dilation, k) for k in range(kernel)] for a in range(stride)]
    return [[(k, ahead // stride) for ahead, k in phase if ahead % stride == 0] for phase in reach]


@functools.lru_cache(maxsize=256)
def _phases(g: Conv2dGeometry, narrow: bool) -> tuple[_Phases, np.ndarray]:
    """How dx is computed, and the taps in the order of the phases, numbered in that of the rotated weights."""
    channels, outer = g.out_channels, g.out_channels // g.groups
    rows, columns = -(-g.height // g.stride[0]), -(-g.width // g.stride[1])
    vertical, horizontal = _axis_phases(g, 0), _axis_phases(g, 1)
    ahead_y = [ahead for phase in vertical for _, ahead in phase]
    ahead_x = [ahead for phase in horizontal for _, ahead in phase]
    top, left = min(ahead_y), min(0, *ahead_x)
    tasks = -(-rows // max(1, POSITIONS // columns))
    task_rows = -(-rows // tasks)
    width = (max(g.out_width, columns + max(ahead_x)) - left) * channels
    taps, terms, starts = [], [], [0]
    for row_taps in vertical:
        for column_taps in horizontal:
            for p, y in row_taps:
                for q, x in column_taps:
                    taps.append((g.kernel[0] - 1 - p) * g.kernel[1] + g.kernel[1] - 1 - q)
                    terms.append((y - top) * width + (x - left) * channels + np.arange(outer))
            starts.append(len(taps) * outer)
    i, j = np.ogrid[:task_rows, :columns]
    positions = (i * width + j * channels).reshape(-1)
    tile = NARROW_POSITION_ROWS if narrow else POSITION_ROWS
    layout = _Phases(
        task_rows=task_rows,
        top=top,
        height=task_rows + max(ahead_y) - top,
        width=width,
        margin=-left * channels,
        columns=columns,
        positions=np.pad(positions, (0, -len(positions) % len(tile))),
        terms=np.concatenate(terms),
        starts=np.array(starts),
        stride=g.stride,
        groups=g.groups,
        group_channels=outer,
    )
    return layout, np.array(taps)


@jit
def _task(dy, weight, start, layout, tile, flat_dx, dx_shape, task):
    """A block of rows of all phases of an image."""
    (step_y, step_x), (height, width, channels) = layout.stride, dx_shape
    panel, tile_rows = panel_size(tile, dy), len(tile)
    row_blocks = ((height + step_y - 1) // step_y + layout.task_rows - 1) // layout.task_rows
    group_panels, group_inputs = start.size // panel // layout.groups, channels // layout.groups
    n, first = task // row_blocks, task % row_blocks * layout.task_rows
    most = layout.task_rows * layout.columns
    values = scratch((most + tile_rows - 1) // tile_rows * tile_rows * panel, dy)
    buffer = pack_rows(dy, n, first + layout.top, layout)
    for phase in range(step_y * step_x):
        a, b = phase // step_x, phase % step_x
        rows = min(layout.task_rows, (height - a + step_y - 1) // step_y - first)
        columns = (width - b + step_x - 1) // step_x
        first_term = layout.starts[phase]
        terms = layout.terms[first_term : layout.starts[phase + 1]]
        for number in range(start.size // panel if rows > 0 else 0):
            group, within = number // group_panels, number % group_panels * panel
            count, base = rows * layout.columns, group * layout.group_channels
            sums = base, layout.positions, count, terms, weight, first_term, number * panel, start
            panel_sums(buffer, *sums, tile, values, 0, panel, True)
            inputs = min(panel, group_inputs - within)
            for i in range(rows):
                at = (n * height + (first + i) * step_y + a) * width + b
                at = at * channels + group * group_inputs + within
                for j in range(columns):
                    source = (i * layout.columns + j) * panel
                    copy_elements(values, source, flat_dx, at + j * step_x * channels, inputs)


@jit
def _input_gradient(dy, weight, start, layout, tile, dx, dx_shape):
    """dx of dy, (N, H, W * C). The weights are flat, each group padded to panels; `start` is as many zeros."""
    flat_dx, rows = dx.reshape(-1), (dx_shape[0] + layout.stride[0] - 1) // layout.stride[0]
    for task in prange(dy.shape[0] * ((rows + layout.task_rows - 1) // layout.task_rows)):
        _task(dy, weight, start, layout, tile, flat_dx, dx_shape, task)


def input_gradient(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry, dx: np.ndarray) -> None:
    """The gradient of the input, written to `dx`."""
    inner = g.weight_shape[2]
    narrow = is_narrow(inner, dy.itemsize)
    layout, taps = _phases(g, narrow)
    panel = (VECTOR_BYTES if narrow else PANEL_BYTES) // dy.itemsize
    rotated = rotate_weight(weight, g.groups).reshape(g.kernel[0] * g.kernel[1], -1)
    by_phase = aligned.empty((len(taps), rotated.shape[1]), dy.dtype)
    run(np.take, rotated, taps, 0, by_phase, "clip")  # "raise" would buffer the result
    by_phase = pad_to_panels(by_phase.reshape(-1, g.in_channels), g.groups, panel)
    start = np.zeros(-(-inner // panel) * panel * g.groups, dy.dtype)
    tile = NARROW_POSITION_ROWS if narrow else POSITION_ROWS
    _input_gradient(dy.reshape(g.batch, g.out_height, -1), by_phase, start, layout, tile, dx, g.x_shape[1:])
