"""Matrix products of whole arrays (CPU), by register tiling.

The right-hand matrix is packed into panels as wide as the register tile, up to _DEPTH rows of one at a time, which stay
in the L1 cache while the rows of the left-hand matrix pass by. Those are read in place, six at a time.

Each sum starts with the bias and takes its terms in order, whatever the shapes, so that the bits of a row do not depend
on the rows beside it, nor on the number of threads. Only the gradient of few weights, a sum over many rows, is added up
in parts (split-K), whose number depends on the shapes alone.

Source: Goto & van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS, 2008.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import copy_rows, transpose_matrix
from gpunet.ops._reduce import column_sums
from gpunet.ops._simd import MANY_REGISTERS, PANEL_BYTES, PANEL_VECTORS, VECTOR_BYTES, gemm_tile, scratch

_HEIGHT, _PACKED_HEIGHT, _NARROW_HEIGHT = (8, 12, 8) if MANY_REGISTERS else (6, 6, 8)
"""Rows of the register tile, with A read in place (a pointer to each), with A packed, and if it is one vector wide."""
_in_place = gemm_tile(_HEIGHT, PANEL_VECTORS, packed=False)
_packed = gemm_tile(_PACKED_HEIGHT, PANEL_VECTORS, packed=True)
_narrow = gemm_tile(_NARROW_HEIGHT, 1, packed=False)
_copy_term, _copy_part_of_term = copy_rows(_PACKED_HEIGHT), copy_rows(_PACKED_HEIGHT, whole=False)
_copy_panel, _copy_part = copy_rows(vectors=PANEL_VECTORS), copy_rows(vectors=1, whole=False)
_store_part = copy_rows(vectors=1, whole=False, fill=False)
_DEPTH = 256
"""Terms that are added up at a time: a panel of so many rows fits in the L1 cache."""
_BLOCK_ROWS = 240
"""Maximum number of rows of a task: _DEPTH terms of each fit in the L2 cache."""
_IN_PLACE_ROWS = 12
"""Up to this many rows, whole panels are read in place, as packing them would take longer than it saves."""
_SERIAL_PRODUCTS = 2**19
"""Up to this many multiply-adds, some 12 microseconds, waking other threads takes longer than it saves."""
_MAX_TASKS, _TASK_PRODUCTS, _TASK_ROWS = 8, 2**18, 48
"""Maximum number of tasks of a product of one block of rows; their minimum of multiply-adds, a few microseconds, the
cost of handing a task to a thread that is still awake, as in a training step; and of rows, as each packs its panels."""
_PARTS, _PART_TERMS, _FEW_SUMS = (4, 8), 1024, 2**15
"""Of split-K: the least and most parts, the least terms of a part, and the most sums that are added up in parts."""


@jit
def _pack_rows(a, base, step, rows, depth, memory, to):
    """Pack `rows` rows of a transposed matrix, whose terms are `step` apart: _PACKED_HEIGHT at a time, term by term.

    Zeros fill up the last tile.
    """
    whole = rows // _PACKED_HEIGHT * _PACKED_HEIGHT
    for first in range(0, whole, _PACKED_HEIGHT):
        _copy_term(a, base + first, step, memory, to + first * depth, _PACKED_HEIGHT, depth, _PACKED_HEIGHT)
    if whole < rows:
        to += whole * depth
        _copy_part_of_term(a, base + whole, step, memory, to, _PACKED_HEIGHT, depth, rows - whole)


@jit
def _pack_panel(b, trans_b, stride, k, depth, column, columns, width, memory, to):
    """Pack rows k ... k + depth - 1 of a panel of op(B) with `columns` columns, filled up to `width` by zeros."""
    lanes = VECTOR_BYTES // b.itemsize
    if columns < width and trans_b:
        memory[to : to + depth * width] = 0
    if trans_b:
        transpose_matrix(b, column * stride + k, stride, memory, to, width, columns, depth)
    elif columns == PANEL_BYTES // b.itemsize:
        _copy_panel(b, k * stride + column, stride, memory, to, width, depth, columns)
    else:
        for j in range(0, width, lanes):
            _copy_part(b, k * stride + column + j, stride, memory, to + j, width, depth, columns - j)


@jit
def _block(a, b, trans_a, trans_b, bias, relu, trans_out, out, first, end, left, right):
    """Rows first ... end - 1 and columns left ... right - 1 of the product; see :func:`_blocks`."""
    lanes, wide = VECTOR_BYTES // a.itemsize, PANEL_BYTES // a.itemsize
    inner, rows = a.shape[0] if trans_a else a.shape[1], end - first
    flat_a, flat_b, flat, stride = a.reshape(-1), b.reshape(-1), out.reshape(-1), out.shape[1]
    parts = max(1, (inner + _DEPTH - 1) // _DEPTH)
    panels, most = (right - left + wide - 1) // wide, (inner + parts - 1) // parts
    # Scratch memory: what the sums start with, a panel of B, incomplete panels of the result (with `trans_out`, all),
    # and rows of A.
    panel = wide * panels
    edge = panel + wide * most
    packed = edge + rows * wide * (panels if trans_out else 1)
    memory = scratch(packed + ((rows + _PACKED_HEIGHT) * most if trans_a else 0), a)
    for j in range(wide * panels):
        memory[j] = bias[left + j] if bias.size and left + j < right else 0
    for part in range(parts):
        k, depth = part * inner // parts, (part + 1) * inner // parts - part * inner // parts
        if trans_a:
            _pack_rows(flat_a, k * a.shape[1] + first, a.shape[1], rows, depth, memory, packed)
        low = a.dtype.type(0) if relu and part == parts - 1 else a.dtype.type(-np.inf)
        for j in range(left, right, wide):
            count = min(wide, right - j)
            width = lanes if count <= lanes and not trans_a else wide
            source, at, step = memory, panel, width
            if count == wide and not trans_b and rows <= _IN_PLACE_ROWS:
                source, at, step = flat_b, k * b.shape[1] + j, b.shape[1]
            else:
                _pack_panel(flat_b, trans_b, b.shape[1], k, depth, j, count, width, memory, panel)
            incomplete = trans_out or count != width
            target, to, to_row = flat, first * stride + j, stride
            if incomplete:
                target, to, to_row = memory, edge + ((j - left) * rows if trans_out else 0), width
            begin, begin_at, begin_row = target, to, to_row
            if part == 0:
                begin, begin_at, begin_row = memory, j - left, 0
            height = _PACKED_HEIGHT if trans_a else _HEIGHT if width == wide else _NARROW_HEIGHT
            for i in range(0, rows, height):
                sums = begin, begin_at + i * begin_row, begin_row, target, to + i * to_row, to_row, low
                if trans_a:
                    left_at = packed + i * depth
                    _packed(rows - i, depth, memory, left_at, _PACKED_HEIGHT, source, at, step, *sums)
                elif width == wide:
                    _in_place(rows - i, depth, flat_a, (first + i) * inner + k, inner, source, at, step, *sums)
                else:
                    _narrow(rows - i, depth, flat_a, (first + i) * inner + k, inner, source, at, step, *sums)
            if incomplete and part == parts - 1:
                if trans_out:
                    transpose_matrix(memory, to, width, flat, j * stride + first, stride, rows, count)
                else:
                    for c in range(0, count, lanes):
                        _store_part(memory, to + c, width, flat, first * stride + j + c, stride, rows, count - c)


@jit
def _blocks(a, b, trans_a, trans_b, bias, relu, trans_out, out, row_tasks, column_tasks):
    """out = op(A) op(B) plus `bias`, (columns,) or empty; its transpose with `trans_out`."""
    rows, columns = (out.shape[1], out.shape[0]) if trans_out else out.shape
    wide = PANEL_BYTES // a.itemsize
    height = _PACKED_HEIGHT if trans_a else _HEIGHT
    tiles, panels = (rows + height - 1) // height, (columns + wide - 1) // wide
    for task in prange(row_tasks * column_tasks):
        row, column = task // column_tasks, task % column_tasks
        first, end = row * tiles // row_tasks * height, (row + 1) * tiles // row_tasks * height
        left, right = column * panels // column_tasks * wide, (column + 1) * panels // column_tasks * wide
        end, right = min(end, rows), min(right, columns)
        _block(a, b, trans_a, trans_b, bias, relu, trans_out, out, first, end, left, right)


@jit
def _parts(a, b, start, partial):
    """partial[k] = what part k of the terms adds to A^T B; `start` is empty."""
    terms, (parts, rows, columns) = a.shape[0], partial.shape
    for part in prange(parts):
        first, end = part * terms // parts, (part + 1) * terms // parts
        some_a, some_b = a[first:end], b[first:end]
        _block(some_a, some_b, True, False, start, False, False, partial[part], 0, rows, 0, columns)


def _tasks(rows: int, inner: int, columns: int, panel: int) -> tuple[int, int]:
    """Numbers of tasks that the rows and the columns of a product are divided into."""
    products = rows * inner * columns
    wanted = max(1, min(_MAX_TASKS, products // _TASK_PRODUCTS)) if products > _SERIAL_PRODUCTS else 1
    panels, most = -(-columns // panel), max(1, rows // _TASK_ROWS)
    if rows > columns:
        by_row = min(wanted, most)
        by_column = min(panels, wanted // by_row)
    else:
        by_column = min(panels, wanted)
        by_row = min(wanted // by_column, most)
    return max(by_row, -(-rows // _BLOCK_ROWS)), by_column


@functools.lru_cache(maxsize=1024)
def _plan(
    rows: int, inner: int, columns: int, trans_a: bool, trans_b: bool, plain: bool, dtype: Any
) -> tuple[bool, int, int, int, np.ndarray]:
    """Whether the transpose is computed of a product that is `plain`, the parts of its sums, the tasks, and no bias."""
    panel = PANEL_BYTES // dtype.itemsize
    trans_out = trans_a and not trans_b and columns < panel <= rows and plain
    if trans_out:
        # Few columns leave most of a panel empty; as rows, they do not, and the other matrix is not transposed.
        rows, columns = columns, rows
    few = trans_a and not trans_b and plain and not trans_out and rows * columns <= _FEW_SUMS
    parts = min(_PARTS[1], inner // _PART_TERMS) if few else 1
    return trans_out, parts if parts >= _PARTS[0] else 1, *_tasks(rows, inner, columns, panel), np.empty(0, dtype)


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    bias: np.ndarray | None = None,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """op(A) @ op(B) of two C-contiguous matrices of the same dtype, plus `bias` in each row, in parallel.

    With `relu`, negative values become 0. The result is written to `out`, a C-contiguous matrix, if given.
    """
    inner, rows = a.shape if trans_a else a.shape[::-1]
    columns = b.shape[0] if trans_b else b.shape[1]
    dtype = a.dtype
    if out is None:
        out = aligned.empty((rows, columns), dtype)
    plain = bias is None and not relu
    trans_out, parts, row_tasks, column_tasks, start = _plan(rows, inner, columns, trans_a, trans_b, plain, dtype)
    if parts > 1:
        partial = aligned.empty((parts, rows, columns), dtype)
        _parts(a, b, start, partial)
        column_sums(partial.reshape(parts, -1), out.reshape(-1))
        return out
    if bias is not None:
        start = np.ascontiguousarray(bias)
    if trans_out:
        a, b = b, a
    _blocks(a, b, trans_a, trans_b, start, relu, trans_out, out, row_tasks, column_tasks)
    return out
