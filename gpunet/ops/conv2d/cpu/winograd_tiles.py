"""Tiles of Winograd's convolution, and their transforms; see :mod:`gpunet.ops.conv2d.cpu.winograd`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from gpunet.ops._numba import jit
from gpunet.ops.conv2d.cpu import cyclic_filter as cyclic
from gpunet.ops.conv2d.cpu.cook_toom import Matrix, input_factors, minimal_filter, paired, transposed
from gpunet.ops.conv2d.cpu.cyclic_filter import POINTS as CYCLIC_POINTS
from gpunet.ops.conv2d.cpu.winograd_transform import Factors, from_points, to_points
from gpunet.ops.geometry import Conv2dGeometry


class Tile(NamedTuple):
    """How a tile is computed: F(m x m, r x r), with n = m + r - 1."""

    m: int
    """Size of a tile of the output."""
    n: int
    """Size of its window of the input."""
    points: int
    """Multiplications for each pair of channels: n^2, or 22 for whole maps of 3x3."""


def _floats(factors: Sequence[Matrix]) -> Factors:
    return [[[float(entry) for entry in row] for row in matrix] for matrix in factors]


def _backwards(factors: Sequence[Matrix]) -> Factors:
    return _floats([transposed(matrix) for matrix in reversed(factors)])


_F2, _F3, _F4, _F5, _F7 = (minimal_filter(m, r) for m, r in ((2, 5), (3, 3), (4, 3), (5, 3), (7, 3)))

_inputs_25, _inputs_36, _inputs_49, _inputs_81 = (to_points(_floats(input_factors(f))) for f in (_F3, _F4, _F5, _F7))
_inputs_22 = to_points(_floats([cyclic.INPUTS]), _floats(cyclic.INPUT_MIX))

_taps_2, _taps_3, _taps_4, _taps_5, _taps_7 = (to_points(_floats(paired(f.taps))) for f in (_F2, _F3, _F4, _F5, _F7))
_taps_22 = to_points(_floats([cyclic.TAPS]), _floats(cyclic.TAP_MIX))

_outputs_2, _outputs_3, _outputs_4, _outputs_5, _outputs_7 = (
    from_points(_backwards(paired(transposed(f.outputs))), clipped=True) for f in (_F2, _F3, _F4, _F5, _F7)
)
_outputs_22 = from_points(_floats([cyclic.OUTPUTS]), _floats(cyclic.OUTPUT_MIX))

_output_gradients_2, _output_gradients_3, _output_gradients_4, _output_gradients_5, _output_gradients_7 = (
    to_points(_floats(paired(transposed(f.outputs)))) for f in (_F2, _F3, _F4, _F5, _F7)
)
_output_gradients_22 = to_points(_backwards([cyclic.OUTPUTS]), _backwards(cyclic.OUTPUT_MIX))

_tap_gradients_2, _tap_gradients_3, _tap_gradients_4, _tap_gradients_5, _tap_gradients_7 = (
    from_points(_backwards(paired(f.taps))) for f in (_F2, _F3, _F4, _F5, _F7)
)
_tap_gradients_22 = from_points(_backwards([cyclic.TAPS]), _backwards(cyclic.TAP_MIX))


@jit
def transform_inputs(tile, x, start, row, column, y, y_start, y_point, y_step, steps):
    """Transform the window whose first entry is ``x[start]``; see :func:`to_points`."""
    target = y, y_start, y_point, y_step, steps
    if tile[2] == CYCLIC_POINTS:  # its first and last row and column are zero
        _inputs_22(x, start + row + column, row, column, *target)
    elif tile[2] == 25:
        _inputs_25(x, start, row, column, *target)
    elif tile[2] == 36:
        _inputs_36(x, start, row, column, *target)
    elif tile[2] == 49:
        _inputs_49(x, start, row, column, *target)
    else:
        _inputs_81(x, start, row, column, *target)


@jit
def transform_taps(tile, x, start, row, column, y, y_start, y_point, y_step, steps):
    """Likewise, the weights."""
    source, target = (x, start, row, column), (y, y_start, y_point, y_step, steps)
    if tile[0] == 2:
        _taps_2(*source, *target)
    elif tile[2] == CYCLIC_POINTS:
        _taps_22(*source, *target)
    elif tile[0] == 3:
        _taps_3(*source, *target)
    elif tile[0] == 4:
        _taps_4(*source, *target)
    elif tile[0] == 5:
        _taps_5(*source, *target)
    else:
        _taps_7(*source, *target)


@jit
def transform_outputs(tile, x, x_start, x_point, y, start, row, column, steps, rows, columns):
    """Transform sums of products to outputs, of which so many `rows` and `columns` exist; see :func:`from_points`."""
    source, target = (x, x_start, x_point), (y, start, row, column, steps, rows, columns)
    if tile[0] == 2:
        _outputs_2(*source, *target)
    elif tile[2] == CYCLIC_POINTS:
        _outputs_22(*source, *target)
    elif tile[0] == 3:
        _outputs_3(*source, *target)
    elif tile[0] == 4:
        _outputs_4(*source, *target)
    elif tile[0] == 5:
        _outputs_5(*source, *target)
    else:
        _outputs_7(*source, *target)


@jit
def transform_output_gradients(tile, x, start, row, column, y, y_start, y_point, y_step, steps):
    """Transform the gradient of a tile of outputs, as the transposed of :func:`transform_outputs`."""
    source, target = (x, start, row, column), (y, y_start, y_point, y_step, steps)
    if tile[0] == 2:
        _output_gradients_2(*source, *target)
    elif tile[2] == CYCLIC_POINTS:
        _output_gradients_22(*source, *target)
    elif tile[0] == 3:
        _output_gradients_3(*source, *target)
    elif tile[0] == 4:
        _output_gradients_4(*source, *target)
    elif tile[0] == 5:
        _output_gradients_5(*source, *target)
    else:
        _output_gradients_7(*source, *target)


@jit
def transform_tap_gradients(tile, x, x_start, x_point, y, start, row, column, steps):
    """The gradient of the weights from that of their transforms, as the transposed of :func:`transform_taps`."""
    source, target = (x, x_start, x_point), (y, start, row, column, steps, 0, 0)
    if tile[0] == 2:
        _tap_gradients_2(*source, *target)
    elif tile[2] == CYCLIC_POINTS:
        _tap_gradients_22(*source, *target)
    elif tile[0] == 3:
        _tap_gradients_3(*source, *target)
    elif tile[0] == 4:
        _tap_gradients_4(*source, *target)
    elif tile[0] == 5:
        _tap_gradients_5(*source, *target)
    else:
        _tap_gradients_7(*source, *target)


_GAIN = 0.8
"""The share of the multiplications of smaller tiles up to which those of 7x7 pay off: their errors are five times as
large."""


def tiles_of(g: Conv2dGeometry, m: int) -> int:
    """The tiles of m x m that an image takes."""
    return -(-g.out_height // m) * -(-g.out_width // m)


def multiplications(g: Conv2dGeometry, tile: Tile) -> int:
    """For each pair of channels of an image."""
    return tiles_of(g, tile.m) * tile.points


@functools.lru_cache(maxsize=1024)
def small_tile_of(g: Conv2dGeometry) -> Tile:
    """The tile of up to 5x5 with which a convolution takes the fewest multiplications; the smaller one of two."""
    if g.kernel[0] == 5:
        return Tile(2, 6, 36)
    if (g.height, g.width, g.out_height, g.out_width) == (3, 3, 3, 3) and g.padding[0] == g.padding[2] == 1:
        return Tile(3, 5, CYCLIC_POINTS)
    return min((Tile(m, m + 2, (m + 2) ** 2) for m in (4, 3, 5)), key=lambda tile: multiplications(g, tile))


@functools.lru_cache(maxsize=1024)
def tile_of(g: Conv2dGeometry) -> Tile:
    """That with which it is computed."""
    small, large = small_tile_of(g), Tile(7, 9, 81)
    pays = g.kernel[0] == 3 and multiplications(g, large) <= _GAIN * multiplications(g, small)
    return large if pays else small
