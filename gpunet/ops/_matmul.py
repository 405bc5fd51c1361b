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
from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops import _intercept
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import clear_elements, copy_elements, copy_rows, transpose_matrix
from gpunet.ops._reduce import column_sums
from gpunet.ops._simd import MANY_REGISTERS, PANEL_BYTES, PANEL_VECTORS, VECTOR_BYTES, gemm_tile, scratch

_HEIGHT, _PACKED_HEIGHT, _NARROW_HEIGHT = (8, 12, 8) if MANY_REGISTERS else (6, 6, 8)
"""Rows of the register tile, with A read in place (a pointer to each), with A packed, and if it is one vector wide."""
_in_place = gemm_tile(_HEIGHT, PANEL_VECTORS, packed=False)
_packed = gemm_tile(_PACKED_HEIGHT, PANEL_VECTORS, packed=True)
_narrow = gemm_tile(_NARROW_HEIGHT, 1, packed=False)
_FEW_ROWS = 10 if MANY_REGISTERS else 4
"""Up to this many rows with A packed have a tile of their own: those of ten classes, and the last ones of others."""
_few_rows = gemm_tile(_FEW_ROWS, PANEL_VECTORS, packed=True)
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
_MAX_TASKS, _TASK_PRODUCTS, _TASK_ROWS = 8, 2**19, 48
"""Maximum number of tasks of a product of one block of rows; the multiply-adds and the rows that each should have at
least, as it packs its operands (but a second thread that is woken has a task)."""
TRANS_A, TRANS_B, RELU, _TRANS_OUT = 1, 2, 4, 8
"""The forms of a product, which add up: A or B is transposed, negative values become 0, the transpose is stored. (One
number, as Numba takes 50 ns to unpack a bool.)"""
_PARTS, _PART_TERMS, _FEW_SUMS = (4, 8), 1024, 2**15
"""Of split-K: the least and most parts, the least terms of a part, and the most sums that are added up in parts."""

Product = Callable[..., np.ndarray]
_as_contiguous = np.ascontiguousarray  # to ask it takes a fifth of the time of asking for an array's flags


@jit
def _is(form, which):
    return form & which != 0


@jit
def _pack_rows(a, base, step, rows, depth, memory, to):
    """Pack `rows` rows of a transposed matrix, whose terms are `step` apart: _PACKED_HEIGHT at a time, term by term.

    Zeros fill up the last tile.
    """
    tiles = rows // _PACKED_HEIGHT
    whole = tiles * _PACKED_HEIGHT
    for k in range(depth if tiles else 0):  # a term of all tiles at a time, as it lies in memory
        at, place = base + k * step, to + k * _PACKED_HEIGHT
        _copy_term(a, at, _PACKED_HEIGHT, memory, place, _PACKED_HEIGHT * depth, tiles, _PACKED_HEIGHT)
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
def _block(a, b, form, bias, out, first, end, left, right):
    """Rows first ... end - 1 and columns left ... right - 1 of the product; see :func:`_blocks`."""
    trans_a, trans_b = _is(form, TRANS_A), _is(form, TRANS_B)
    relu, trans_out = _is(form, RELU), _is(form, _TRANS_OUT)
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
    as_packed = trans_a and a.shape[1] == _FEW_ROWS  # A lies in memory as it would be packed
    memory = scratch(packed + ((rows + _PACKED_HEIGHT) * most if trans_a and not as_packed else 0), a)
    left_rows, left_start = memory, packed
    clear_elements(memory, 0, wide * panels)
    if bias.size:
        copy_elements(bias, left, memory, 0, right - left)
    for part in range(parts):
        k, depth = part * inner // parts, (part + 1) * inner // parts - part * inner // parts
        if as_packed:
            left_rows, left_start = flat_a, k * _FEW_ROWS
        elif trans_a:
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
                left_at = left_start + i * depth
                if trans_a and rows - i <= _FEW_ROWS:
                    left_step = _FEW_ROWS if as_packed else _PACKED_HEIGHT
                    _few_rows(rows - i, depth, left_rows, left_at, left_step, source, at, step, *sums)
                elif trans_a:
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
def _blocks(a, b, form, bias, out, row_tasks, column_tasks):
    """out = op(A) op(B) plus `bias`, (columns,) or empty, in the `form` that TRANS_A and others add up to."""
    rows, columns = (out.shape[1], out.shape[0]) if _is(form, _TRANS_OUT) else out.shape
    wide = PANEL_BYTES // a.itemsize
    height = _PACKED_HEIGHT if _is(form, TRANS_A) else _HEIGHT
    tiles, panels = (rows + height - 1) // height, (columns + wide - 1) // wide
    for task in prange(row_tasks * column_tasks):
        row, column = task // column_tasks, task % column_tasks
        first, end = row * tiles // row_tasks * height, (row + 1) * tiles // row_tasks * height
        left, right = column * panels // column_tasks * wide, (column + 1) * panels // column_tasks * wide
        end, right = min(end, rows), min(right, columns)
        _block(a, b, form, bias, out, first, end, left, right)


@jit
def _parts(a, b, start, partial):
    """partial[k] = what part k of the terms adds to A^T B; `start` is empty."""
    terms, (parts, rows, columns) = a.shape[0], partial.shape
    for part in prange(parts):
        first, end = part * terms // parts, (part + 1) * terms // parts
        some_a, some_b = a[first:end], b[first:end]
        _block(some_a, some_b, TRANS_A, start, partial[part], 0, rows, 0, columns)


def _tasks(rows: int, inner: int, columns: int, panel: int) -> tuple[int, int]:
    """Numbers of tasks that the rows and the columns of a product are divided into."""
    products = rows * inner * columns
    wanted = max(2, min(_MAX_TASKS, products // _TASK_PRODUCTS)) if products > _SERIAL_PRODUCTS else 1
    panels, most, least = -(-columns // panel), max(1, rows // _TASK_ROWS), -(-rows // _BLOCK_ROWS)
    if rows > columns:
        by_row = max(least, min(wanted, most))
        by_column = min(panels, max(1, wanted // by_row))
    else:
        by_column = min(panels, -(-wanted // least))
        by_row = max(least, min(wanted // by_column, most))
    return by_row, by_column


@functools.lru_cache(maxsize=1024)
def product(a_shape: tuple[int, int], b_shape: tuple[int, int], form: int, biased: bool, dtype: Any) -> Product:
    """What computes :func:`matmul` of matrices of these shapes: ``run(a, b, bias=None, out=None)``."""
    inner, rows = a_shape if form & TRANS_A else a_shape[::-1]
    columns = b_shape[0] if form & TRANS_B else b_shape[1]
    panel, shape = PANEL_BYTES // dtype.itemsize, (rows, columns)
    plain = form == TRANS_A and not biased
    trans_out = plain and columns < panel <= rows
    if trans_out:
        # Few columns leave most of a panel empty; as rows, they do not, and the other matrix is not transposed.
        rows, columns, form = columns, rows, form | _TRANS_OUT
    parts = inner // _PART_TERMS if plain and not trans_out and rows * columns <= _FEW_SUMS else 1
    if parts >= _PARTS[0]:
        return _in_parts(shape, min(_PARTS[1], parts), dtype)
    empty = np.empty if rows * columns * dtype.itemsize < aligned.SMALL else aligned.empty
    row_tasks, column_tasks = _tasks(rows, inner, columns, panel)
    no_bias = np.empty(0, dtype)
    code: Any = None  # that of the kernel: to look it up at each call, by the types of the arguments, takes 0.2 us

    def run(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        nonlocal code
        out = empty(shape, dtype) if out is None else out
        if trans_out:
            a, b = b, a
        a = a if _as_contiguous(a) is a else contiguous(a)
        b = b if _as_contiguous(b) is b else contiguous(b)
        start = no_bias if bias is None else contiguous(bias)
        if code is not None and not _intercept.intercepting:
            code(a, b, form, start, out, row_tasks, column_tasks)
            return out
        _blocks(a, b, form, start, out, row_tasks, column_tasks)
        if not _intercept.intercepting:
            code = _intercept.code_of(_blocks, (a, b, form, start, out, row_tasks, column_tasks))
        return out

    return run


def _in_parts(shape: tuple[int, int], parts: int, dtype: Any) -> Product:
    """What computes A^T B of long sums, in `parts`."""

    def run(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        out = aligned.empty(shape, dtype) if out is None else out
        partial = aligned.empty((parts, *shape), dtype)
        _parts(contiguous(a), contiguous(b), np.empty(0, dtype), partial)
        column_sums(partial.reshape(parts, -1), out.reshape(-1))
        return out

    return run


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
    """op(A) @ op(B) of two matrices of the same dtype, plus `bias` in each row, in parallel.

    With `relu`, negative values become 0. The result is written to `out`, a C-contiguous matrix, if given.
    """
    form = (TRANS_A if trans_a else 0) | (TRANS_B if trans_b else 0) | (RELU if relu else 0)
    return product(a.shape, b.shape, form, bias is not None, a.dtype)(a, b, bias, out)
