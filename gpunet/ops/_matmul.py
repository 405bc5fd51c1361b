"""Matrix products of whole arrays (CPU): small ones by register tiling, large ones by BLAS.

BLAS packs both matrices first. If the right-hand matrix fits in the L2 cache, that costs more than it gains, all the
more so if the left-hand matrix has few rows.
"""

from __future__ import annotations

import numpy as np

from gpunet import aligned
from gpunet.ops._blas import gemm, gemm_address
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._simd import PANEL_BYTES, gemm_micro_kernel, multiples

_TILE_ROWS = 6
"""Rows of the micro-kernel's register tile."""
_CACHED_BYTES = 2**19
"""A right-hand matrix of up to this size is read in place, without packing."""
_FEW_ROWS = 3
_MAX_CHUNKS, _CHUNK_PRODUCTS = 8, 2**18
"""Maximum number of row chunks of a register-tiled product, and minimum multiply-adds per chunk: a few microseconds,
the cost of handing a chunk to a thread that is still awake, as in a training step."""
_BLAS_CHUNK_ROWS, _BLAS_CHUNK_PRODUCTS = 64, 2**19
"""Minimum rows and multiply-adds of a BLAS chunk: each chunk packs the whole right-hand matrix."""


@jit
def _axpy_rows(a, b, c):
    """c = a @ b, accumulating scaled rows of b (axpy)."""
    for i in range(a.shape[0]):
        c[i] = 0
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(b.shape[1]):
                c[i, j] += factor * b[k, j]


@jit
def _rectify(c):
    for i in range(c.size):
        c[i] = c.dtype.type(0) if c[i] <= c.dtype.type(0) else c[i]


@jit
def _tiled_rows(a, row_step, offsets, b, bias, panel, relu, c, first, stop):
    """Rows first ... stop - 1 of the product plus bias; `a` and `b` are flat, `panel` is PANEL_BYTES in elements."""
    rows, columns = c.shape
    flat = c.reshape(-1)
    for j in range(0, columns, panel):
        for start in range(first, stop, _TILE_ROWS):
            i = min(start, rows - _TILE_ROWS)  # the last tiles overlap
            at = i * row_step
            tile = (
                *(at, at + row_step, at + 2 * row_step),
                *(at + 3 * row_step, at + 4 * row_step, at + 5 * row_step),
            )
            to = i * columns + j
            gemm_micro_kernel(*(a, tile, offsets), *(b, j, columns), *(bias, j, 0), *(flat, to, columns))
    if relu:
        # Includes the rows before the first that an overlapping tile has recomputed: whoever writes a sum rectifies it.
        _rectify(flat[min(first, rows - _TILE_ROWS) * columns : min(stop, rows) * columns])


@parallel_jit
def _tiled_chunks(a, row_step, offsets, b, bias, panel, relu, c, chunks):
    tiles = (c.shape[0] + _TILE_ROWS - 1) // _TILE_ROWS
    for chunk in prange(chunks):
        first, stop = chunk * tiles // chunks * _TILE_ROWS, (chunk + 1) * tiles // chunks * _TILE_ROWS
        _tiled_rows(a, row_step, offsets, b, bias, panel, relu, c, first, stop)


@jit
def _blas_rows(address, a, trans_a, b, trans_b, c, start, stop):
    """Rows start ... stop - 1 of the product."""
    n = c.shape[1]
    k = a.shape[0] if trans_a else a.shape[1]
    itemsize = c.itemsize
    gemm(
        address,
        trans_a,
        trans_b,
        stop - start,
        n,
        k,
        a.ctypes.data + (start if trans_a else start * a.shape[1]) * itemsize,
        a.shape[1],
        b.ctypes.data,
        b.shape[1],
        c.dtype.type(0),
        c.ctypes.data + start * n * itemsize,
        n,
    )


@parallel_jit
def _blas_chunks(address, a, trans_a, b, trans_b, c, chunks):
    rows = c.shape[0]
    for chunk in prange(chunks):
        start, stop = chunk * rows // chunks, (chunk + 1) * rows // chunks
        _blas_rows(address, a, trans_a, b, trans_b, c, start, stop)


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
    """op(A) @ op(B) of two C-contiguous matrices of the same dtype, plus `bias` in each row, in parallel over rows.

    With `relu`, negative values become 0. The result is written to `out`, a C-contiguous matrix, if given.
    """
    rows, inner = (a.shape[1], a.shape[0]) if trans_a else a.shape
    if out is None:
        out = aligned.empty((rows, b.shape[0] if trans_b else b.shape[1]), a.dtype)
    if _suits_register_tiling(rows, b, trans_b):
        row_step, step = (1, rows) if trans_a else (inner, 1)
        start = np.zeros(out.shape[1], a.dtype) if bias is None else np.ascontiguousarray(bias)
        panel = PANEL_BYTES // a.itemsize
        operands = a.reshape(-1), row_step, multiples(inner, step), b.reshape(-1), start, panel, relu, out
        chunks = min(_MAX_CHUNKS, out.size * inner // _CHUNK_PRODUCTS)
        if chunks <= 1:
            _tiled_rows(*operands, 0, rows)
        else:
            _tiled_chunks(*operands, chunks)
        return out
    if not (out.size and inner):
        out[...] = 0
    elif rows <= _FEW_ROWS and not trans_a and not trans_b:
        _axpy_rows(a, b, out)
    else:
        by_blas = gemm_address(a.dtype), a, int(trans_a), b, int(trans_b), out
        chunks = min(-(-rows // _BLAS_CHUNK_ROWS), out.size * inner // _BLAS_CHUNK_PRODUCTS)
        if chunks <= 1:
            _blas_rows(*by_blas, 0, rows)
        else:
            _blas_chunks(*by_blas, chunks)
    if bias is not None:
        out += bias
    if relu:
        _rectify(out.reshape(-1))
    return out


def _suits_register_tiling(rows: int, b: np.ndarray, trans_b: bool) -> bool:
    return (
        not trans_b and rows >= _TILE_ROWS and b.nbytes <= _CACHED_BYTES and b.shape[1] * b.itemsize % PANEL_BYTES == 0
    )
