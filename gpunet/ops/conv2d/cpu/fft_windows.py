"""Windows of a map: their place, and their transforms for either size; see :mod:`gpunet.ops.conv2d.cpu.fft`."""

from __future__ import annotations

from gpunet.ops._numba import jit
from gpunet.ops._pack import copy_elements
from gpunet.ops.conv2d.cpu.fft_transform import (
    column_transform,
    inverse_column_transform,
    inverse_row_transform,
    row_transform,
)

_columns_8, _columns_16 = column_transform(8), column_transform(16)
_inverse_columns_8, _inverse_columns_16 = inverse_column_transform(8), inverse_column_transform(16)
_real_rows_8, _real_rows_16 = (row_transform(n, real=True) for n in (8, 16))
_rows_8, _rows_16 = (row_transform(n, real=False) for n in (8, 16))
_real_conjugates_8, _real_conjugates_16 = (row_transform(n, real=True, conjugate=True) for n in (8, 16))
_conjugates_8, _conjugates_16 = (row_transform(n, real=False, conjugate=True) for n in (8, 16))
_inverse_real_rows_8, _inverse_real_rows_16 = (inverse_row_transform(n, real=True) for n in (8, 16))
_inverse_rows_8, _inverse_rows_16 = (inverse_row_transform(n, real=False) for n in (8, 16))


@jit
def place(number, tiling):
    """Image, first row and first column of a tile."""
    _, rows, columns, down, across = tiling
    return number // (down * across), number // across % down * rows, number % across * columns


@jit
def inside(first, size, n):
    """First entry and the one after the last of a window of n from `first` on that are on a map of this size."""
    begin = max(0, -first)
    return begin, max(begin, min(n, size - first))


@jit
def pack_window(x, start, width, channels, top, bottom, columns, band, pitch):
    """Copy rows `top` to `bottom` of a window, `columns` wide, whose first entry is ``x[start]``, to the cache.

    Memory is read in order, as the transform does not. Rows are `pitch` elements apart in `band`.
    """
    for i in range(top, bottom):
        copy_elements(x, start + i * width * channels, band, i * pitch, columns * channels)


@jit
def to_slots(n, source, columns, first, end, target, steps):
    """Transform columns of a window; see :func:`column_transform`."""
    if n == 8:
        _columns_8(*source, columns, first, end, *target, steps)
    else:
        _columns_16(*source, columns, first, end, *target, steps)


@jit
def from_slots(n, source, columns, target, steps, rows):
    """The inverse; see :func:`inverse_column_transform`."""
    if n == 8:
        _inverse_columns_8(*source, columns, *target, steps, rows)
    else:
        _inverse_columns_16(*source, columns, *target, steps, rows)


@jit
def points_before(n, group):
    """Points of the groups of slots before this one."""
    return 0 if group == 0 else 2 * (2 + 3 * (n // 2 - 1)) + (group - 1) * 3 * n


@jit
def to_points(n, group, x, x_start, x_slot, x_column, first, end, y, y_start, y_point, y_step, steps):
    """Transform the rows of a group of slots; see :func:`row_transform`."""
    row, target = (x_slot, x_column, first, end), (y_point, y_step, steps)
    if group > 0:
        if n == 8:
            _rows_8(x, x_start, *row, y, y_start, *target)
        else:
            _rows_16(x, x_start, *row, y, y_start, *target)
        return
    for slot in range(2):
        at, to = x_start + slot * x_slot, y_start + slot * (points_before(n, 1) // 2) * y_point
        if n == 8:
            _real_rows_8(x, at, *row, y, to, *target)
        else:
            _real_rows_16(x, at, *row, y, to, *target)


@jit
def to_conjugates(n, group, x, x_start, x_slot, x_column, first, end, y, y_start, y_point, y_step, steps):
    """Likewise, their conjugates."""
    row, target = (x_slot, x_column, first, end), (y_point, y_step, steps)
    if group > 0:
        if n == 8:
            _conjugates_8(x, x_start, *row, y, y_start, *target)
        else:
            _conjugates_16(x, x_start, *row, y, y_start, *target)
        return
    for slot in range(2):
        at, to = x_start + slot * x_slot, y_start + slot * (points_before(n, 1) // 2) * y_point
        if n == 8:
            _real_conjugates_8(x, at, *row, y, to, *target)
        else:
            _real_conjugates_16(x, at, *row, y, to, *target)


@jit
def from_points(n, group, x, x_start, x_point, y, y_start, y_slot, y_column, steps, columns):
    """The rows of a group of slots from sums of products of points; see :func:`inverse_row_transform`."""
    target = y_slot, y_column, steps, columns
    if group > 0:
        if n == 8:
            _inverse_rows_8(x, x_start, x_point, y, y_start, *target)
        else:
            _inverse_rows_16(x, x_start, x_point, y, y_start, *target)
        return
    for slot in range(2):
        at, to = x_start + slot * (points_before(n, 1) // 2) * x_point, y_start + slot * y_slot
        if n == 8:
            _inverse_real_rows_8(x, at, x_point, y, to, *target)
        else:
            _inverse_real_rows_16(x, at, x_point, y, to, *target)
